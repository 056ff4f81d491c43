"""What stands in the ranges of a store: how many payments with a known outcome, how many frauds, from when until when.

It does not know what the ranges are used for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from numpy.typing import NDArray

from tsa.data.store import EventStore
from tsa.errors import DataError
from tsa.schema import SPLITS


def ranges_of(store: EventStore) -> dict[str, dict[str, Any]]:
    """By range: `n` and `frauds` of the labelled payments; `start` and `end`, the times of the first and last payment.

    `known_too_late`: outcomes that nothing learns from, since they become known only after the test range has begun.
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
    """DataError where no outcome of the test range is known: what is trained could not be measured."""
    if not len(store.labelled("test")):
        n = len(store.label[store.split("test")])
        raise DataError(
            f"split.test must hold payments whose outcome is known, however: none of {n} is; "
            "wait for outcomes, or move the ranges of [split] back"
        )


def _when(times: NDArray[Any], at: int) -> str | None:
    return datetime.fromtimestamp(float(times[at]), UTC).isoformat() if len(times) else None
