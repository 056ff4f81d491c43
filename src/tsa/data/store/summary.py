"""What the ranges of a store hold: payments, frauds and times, and whether a model can be measured on them."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tsa.config.market import SPLITS
from tsa.data.store.store import EventStore
from tsa.errors import DataError
from tsa.times import iso


def split_summary(store: EventStore) -> dict[str, dict[str, Any]]:
    """By range: `n` and `frauds` of the labelled payments, times of its first and last payment (`start`, `end`).

    `known_too_late`: unused outcomes, which become known only after the test range has begun.
    """
    return {
        name: {
            "n": len(store.labelled(name)),
            "frauds": int((store.label[store.labelled(name)] == 1).sum()),
            "known_too_late": store.known_too_late(name),
            "start": _when(store.time_seconds[store.split(name)], 0),
            "end": _when(store.time_seconds[store.split(name)], -1),
        }
        for name in SPLITS
    }


def refuse_unmeasured(store: EventStore) -> None:
    """Raise DataError if no outcome of the test range is known: the trained model could not be evaluated."""
    if not len(store.labelled("test")):
        n = len(store.split_rows("test"))
        raise DataError(
            f"split.test must hold payments whose outcome is known, but none of {n} is; "
            "wait for outcomes, or move the ranges of [split] (--until of a refit) back"
        )


def _when(times: NDArray[Any], at: int) -> str | None:
    return iso(times[at]) if len(times) else None
