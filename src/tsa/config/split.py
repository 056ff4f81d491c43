"""`[split]`: which part of a log is for training, validation, calibration and test."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, WrapSerializer, WrapValidator, field_validator, model_validator

from tsa.config.base import ConfigModel, Instant
from tsa.errors import DataError
from tsa.times import DAY_SECONDS, iso

SPLITS = ("train", "validation", "calibration", "test")
Range = tuple[Instant, Instant]
Positive = Annotated[float, Field(gt=0, le=1)]

RELATIVE = re.compile(
    r"last ([0-9]{1,5}) days?(?: before (?:(train|validation|calibration|test)|the last ([0-9]{1,5}) days?))?"
)
FORM = 'must be two dates, or a text like "last 90 days before test" or "last 30 days before the last 14 days"'


class Relative(NamedTuple):
    """A range of days before another range, or before the end of the log."""

    days: int
    before: str | None
    """The range it ends at; None: the end of the log."""
    skipped_days: int
    """Days at the end of the log that are left out."""

    @classmethod
    def of(cls, text: str) -> Relative:
        """Read `last N days [before RANGE | before the last M days]`. Raises ValueError for another text."""
        match = RELATIVE.fullmatch(" ".join(text.split()))
        if match is None or int(match[1]) == 0:
            raise ValueError(f"{FORM} (got {text!r})")
        return cls(int(match[1]), match[2], int(match[3] or 0))


def _span(value: Any, handler: Callable[[Any], Any]) -> Any:
    if not isinstance(value, str):
        return handler(value)
    Relative.of(value)
    return " ".join(value.split())


def _written(value: Any, handler: Callable[[Any], Any]) -> Any:
    return value if isinstance(value, str) else handler(value)


if TYPE_CHECKING:
    Span = Range | str
else:
    Span = Annotated[Range, WrapValidator(_span), WrapSerializer(_written)]


class Split(ConfigModel):
    """Half-open time ranges [start, end); or `fractions` of the log, in the order of `SPLITS`.

    A range may be relative: "last 180 days before validation". "last 30 days" ends with the log, and "last 30 days before
    the last 14 days" leaves its newest payments out. Relative ranges are full UTC days, and end at the label delay before
    the test range where they end before it.

    Attributes:
        by: Whether `fractions` are those of the log's time span, or of its payments ("rows").
    """

    train: Span | None = None
    validation: Span | None = None
    calibration: Span | None = None
    test: Span | None = None
    fractions: tuple[Positive, Positive, Positive, Positive] | None = None
    by: Literal["time", "rows"] | None = None

    @field_validator("by")
    @classmethod
    def _usual(cls, value: Literal["time", "rows"] | None) -> Literal["time", "rows"] | None:
        """The default counts as absent, so that the market stays the same."""
        return None if value == "time" else value

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        missing = [name for name in SPLITS if getattr(self, name) is None]
        if self.fractions is None and missing:
            raise ValueError(f"needs four time ranges, or fractions (missing: {', '.join(missing)})")
        if self.fractions is not None and len(missing) < len(SPLITS):
            raise ValueError("takes time ranges or fractions (got both)")
        if self.by == "rows" and self.fractions is None:
            raise ValueError('by = "rows" needs fractions (got time ranges)')
        if self.fractions is not None and not math.isclose(sum(self.fractions), 1.0, abs_tol=1e-6):
            raise ValueError(f"fractions must add up to 1 (got {list(self.fractions)})")
        for at, name in enumerate(SPLITS):
            before = None if (own := self.relative.get(name)) is None else own.before
            if before is not None and before not in SPLITS[at + 1 :]:
                raise ValueError(f"{name} must end before a later range (got {getattr(self, name)!r})")
        return self

    @property
    def ranges(self) -> dict[str, Range]:
        """The time ranges given as dates, by name."""
        pairs = ((name, getattr(self, name)) for name in SPLITS)
        return {name: pair for name, pair in pairs if isinstance(pair, tuple)}

    @property
    def relative(self) -> dict[str, Relative]:
        """The relative ranges by name."""
        texts = ((name, getattr(self, name)) for name in SPLITS)
        return {name: Relative.of(text) for name, text in texts if isinstance(text, str)}

    @property
    def shares(self) -> tuple[float, float, float]:
        """The shares of train, validation and calibration among the three."""
        if self.fractions is not None:
            sizes = list(self.fractions[:3])
        else:
            sizes = [(self.ranges[name][1] - self.ranges[name][0]).total_seconds() for name in SPLITS[:3]]
        train, validation, calibration = (size / sum(sizes) for size in sizes)
        return train, validation, calibration

    def resolve(
        self, first_seconds: float, last_seconds: float, delay_seconds: float
    ) -> dict[str, tuple[float, float]]:
        """Ranges [start, end) in epoch seconds.

        Fractions divide the time from the first to the last event (which is in the test range), without the label
        delay that is left out before the test range.

        Raises:
            DataError: If the log is too short.
        """
        if self.fractions is None:
            return self._resolve_dates(last_seconds, delay_seconds)
        usable = last_seconds - first_seconds - delay_seconds
        if usable <= 0:
            days = (last_seconds - first_seconds) / DAY_SECONDS
            raise DataError(
                f"split.fractions needs a log longer than the label delay of {delay_seconds / DAY_SECONDS:g} days, "
                f"but the log spans {days:g} days"
            )
        ends = [first_seconds + usable * sum(self.fractions[: i + 1]) for i in range(3)]
        edges = [(first_seconds, ends[0]), (ends[0], ends[1]), (ends[1], ends[2])]
        edges.append((ends[2] + delay_seconds, math.nextafter(last_seconds, math.inf)))
        return dict(zip(SPLITS, edges, strict=True))

    def _resolve_dates(self, last_seconds: float, delay_seconds: float) -> dict[str, tuple[float, float]]:
        """The ranges given as dates, and the relative ones, which depend on where the log ends."""
        ranges = {name: (start.timestamp(), end.timestamp()) for name, (start, end) in self.ranges.items()}
        relative, log_end = self.relative, (last_seconds // DAY_SECONDS + 1) * DAY_SECONDS
        for name in reversed(relative):
            own = relative[name]
            end = log_end - own.skipped_days * DAY_SECONDS
            if own.before is not None:
                end = ranges[own.before][0] - (delay_seconds if own.before == "test" else 0.0)
            ranges[name] = (end - own.days * DAY_SECONDS, end)
        if relative and (findings := list(self._overlaps(ranges, delay_seconds))):
            raise DataError("\n  ".join(["split: the ranges of this log do not follow each other", *findings]))
        return {name: ranges[name] for name in SPLITS}

    def _overlaps(self, ranges: dict[str, tuple[float, float]], delay_seconds: float) -> Iterator[str]:
        for name, later in itertools.pairwise(SPLITS):
            gap = delay_seconds if later == "test" else 0.0
            if ranges[name][1] + gap > ranges[later][0]:
                end, start = (iso(seconds, "seconds") for seconds in (ranges[name][1], ranges[later][0]))
                after = f"{gap / DAY_SECONDS:g} days (the label delay) after" if gap else "not before"
                yield f"split.{later}: must begin {after} the end of {name}, {end} (got {start})"

    def resolve_rows(self, time_seconds: NDArray[np.float64], delay_seconds: float) -> dict[str, tuple[float, float]]:
        """Ranges [start, end) in epoch seconds that hold `fractions` of the payments.

        Payments in the label delay before the test range are in no range and do not count. Payments with the same time
        are in the same range.

        Args:
            time_seconds: (n,) times of the payments that are scored, ascending.
            delay_seconds: The label delay.

        Raises:
            DataError: If too few payments come after the label delay.
        """
        assert self.fractions is not None
        n = len(time_seconds)
        ends = np.arange(n)  # the calibration range ends before this row
        resumes = np.searchsorted(time_seconds, time_seconds + delay_seconds)
        usable = ends + n - resumes
        fits = np.flatnonzero((ends >= sum(self.fractions[:3]) * usable) & (resumes < n))
        if not len(fits):
            rule = 'split.fractions by = "rows" needs payments after the label delay'
            raise DataError(
                f"{rule} of {delay_seconds / DAY_SECONDS:g} days (got {n:,} payments, too few of them later)"
            )
        last = int(fits[0])
        shares = np.cumsum(self.fractions[:3]) / sum(self.fractions[:3])
        rows = [0, *(round(float(share) * last) for share in shares)]
        edges = [float(time_seconds[row]) for row in rows]
        ranges = [
            *itertools.pairwise(edges),
            (edges[-1] + delay_seconds, math.nextafter(float(time_seconds[-1]), math.inf)),
        ]
        return dict(zip(SPLITS, ranges, strict=True))
