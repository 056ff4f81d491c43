"""Ranges of payments for monitoring: those that are monitored, and those that they are compared with."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from tsa.data.store.store import EventStore
from tsa.data.time_outliers import valid_span
from tsa.data.time_range import window_seconds
from tsa.errors import ConfigError, StoreError, TSAError
from tsa.evaluation.trained_run import TrainedRun
from tsa.monitoring.reference import KIND
from tsa.monitoring.windows import iso_time
from tsa.times import DAY_SECONDS

When = str | datetime | None
PEEK = 200
LEFT_OUT = "%s: %d payments dated %s %s are left out; include them with %s"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A time range [start, end); None means open. `last_days` instead of `start`: so many days before the end."""

    start: When = None
    end: When = None
    last_days: float | None = None

    def __post_init__(self) -> None:
        if self.last_days is not None and not 0 < self.last_days < math.inf:
            raise ConfigError(f"the number of last days must be above 0 (got {self.last_days:g})")
        if self.last_days is not None and self.start is not None:
            raise ConfigError(f"a range has a start or a number of last days (got {self.start} and {self.last_days:g})")

    @property
    def seconds(self) -> tuple[float, float]:
        """As epoch seconds; without `last_days`, which depend on a log (see `range_of`).

        Raises:
            ConfigError: For an invalid time, or a start after the end.
        """
        return window_seconds(self.start, self.end)

    @property
    def is_open(self) -> bool:
        """Whether nothing is given."""
        return self.start is None and self.end is None and self.last_days is None


def range_of(store: EventStore, span: Span, what: str) -> tuple[float, float]:
    """A range of the payments of a store, in epoch seconds.

    If it has no start or no end, payments that a wrong clock has dated far before or after all others are left out.
    """
    start, end = span.seconds
    times = np.asarray(store.time_seconds)
    first, last = valid_span(times, time.time())
    if span.last_days is not None:
        start = min(end, math.nextafter(last, math.inf)) - span.last_days * DAY_SECONDS
    if start == -math.inf and first < end and (early := int(np.count_nonzero(times < first))):
        logger.warning(LEFT_OUT, what, early, "before", iso_time(first), "--from")
        start = first
    if end == math.inf and (late := int(np.count_nonzero(times > last))):
        logger.warning(LEFT_OUT, what, late, "after", iso_time(last), "--to")
        end = math.nextafter(last, math.inf)
    return start, end


def check_reference_span(span: Span, reference: Sequence[str]) -> None:
    """Refuse a range for a reference.json, which has one. Raises ConfigError."""
    if is_reference_file(reference) and not span.is_open:
        raise ConfigError("a reference.json has its range already, but another one is given for it")


def check_overlap(monitored: tuple[float, float], span: Span, reference: Sequence[str]) -> None:
    """Refuse payments that are monitored and in the reference. Raises ConfigError."""
    (start, end), (first, last) = monitored, span.seconds
    if not reference and not span.is_open and first < end and start < last:
        raise ConfigError(
            "the reference must not overlap the payments monitored, but "
            f"{_shown(first, last)} is the reference, {_shown(start, end)} monitored"
        )


def _shown(start: float, end: float) -> str:
    first, last = (iso_time(value) if math.isfinite(value) else "the end" for value in (start, end))
    return f"{'the beginning' if start == -math.inf else first} to {last}"


def is_reference_file(reference: Sequence[str]) -> Path | None:
    """The path of the reference if it is a reference.json that an earlier call wrote, else None."""
    if len(reference) != 1 or not (path := Path(reference[0])).is_file() or path.suffix != ".json":
        return None
    with path.open("rb") as file:
        return path if KIND.encode() in file.read(PEEK) else None


def calibrated_on(bundle: Path) -> tuple[EventStore, tuple[float, float], str]:
    """The range that the bundle was calibrated on, if the bundle is still in its run folder.

    Raises:
        ConfigError: If it is not; a --reference is needed then.
    """
    try:
        if bundle.resolve().name != "bundle":
            raise ConfigError(f"{bundle} is not the bundle of a run")
        run = TrainedRun.open(bundle.resolve().parent)
        learned = run.metadata["training"].get("train_on", ["train"])
        name = next((name for name in ("calibration", "validation") if name not in learned), None)
        if name is None:
            raise StoreError("all of its ranges were learned from")
    except TSAError as error:
        raise ConfigError(
            f"a --reference is needed: the payments that {bundle} was calibrated on are not at hand ({error})"
        ) from None
    times, split = run.store.time_seconds, run.store.manifest["splits"][name]
    return (
        run.store,
        (float(split["start_seconds"]), min(float(split["end_seconds"]), float(times[-1]) + 1)),
        f"the {name} range of the run",
    )
