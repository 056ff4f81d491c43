"""`[split]`: which part of a log is for training, validation, calibration and test."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from tsa.config.base import ConfigModel, Instant
from tsa.errors import DataError
from tsa.times import DAY_SECONDS

SPLITS = ("train", "validation", "calibration", "test")
Range = tuple[Instant, Instant]
Positive = Annotated[float, Field(gt=0, le=1)]


class Split(ConfigModel):
    """Half-open time ranges [start, end); or `fractions` of the log, in the order of `SPLITS`.

    Attributes:
        by: Whether `fractions` are those of the log's time span, or of its payments ("rows").
    """

    train: Range | None = None
    validation: Range | None = None
    calibration: Range | None = None
    test: Range | None = None
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
        return self

    @property
    def ranges(self) -> dict[str, Range]:
        """The time ranges by name; empty when the split is given as fractions."""
        pairs = ((name, getattr(self, name)) for name in SPLITS)
        return {name: pair for name, pair in pairs if pair is not None}

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
            return {name: (start.timestamp(), end.timestamp()) for name, (start, end) in self.ranges.items()}
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
