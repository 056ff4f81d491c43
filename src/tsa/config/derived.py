"""`[[features.derived]]`: features that are computed from columns of the log, without code.

`tsa.data.derived` computes them, for logs and single payments alike.
"""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tsa.config.base import Column, ConfigModel

Kind = Literal[
    "distance_km",
    "years_between",
    "seconds_between",
    "ratio",
    "difference",
    "equal",
    "prefix",
    "length",
    "pattern",
    "hour_of_day",
    "day_of_week",
    "day_of_month",
    "is_weekend",
]
Unit = Literal["s", "ms", "us", "ns"]
InputKind = Literal["latitude", "longitude", "number", "text", "digits", "time"]
"""How a column is read. "digits": a text, often a long number, in which every digit matters."""

INPUTS: dict[str, tuple[InputKind, ...]] = {
    "distance_km": ("latitude", "longitude", "latitude", "longitude"),
    "years_between": ("time", "time"),
    "seconds_between": ("time", "time"),
    "ratio": ("number", "number"),
    "difference": ("number", "number"),
    "equal": ("text", "text"),
    "prefix": ("digits",),
    "length": ("digits",),
    "pattern": ("digits",),
    "hour_of_day": ("time",),
    "day_of_week": ("time",),
    "day_of_month": ("time",),
    "is_weekend": ("time",),
}
"""By kind, the columns it is computed from."""

NUMBERS = frozenset({"distance_km", "years_between", "seconds_between", "ratio", "difference"})
"""Kinds that are numbers: numerical or engineered features, or the amount."""
TEXTS = frozenset({"prefix", "pattern"})
"""Kinds that are texts: categorical features, keys or segments. All other kinds can be either."""
IN_A_ZONE = frozenset({"hour_of_day", "day_of_week", "day_of_month", "is_weekend"})


@dataclass(frozen=True)
class DerivedInput:
    """A column that a derived feature is computed from."""

    column: str
    kind: InputKind
    time_unit: Unit | None = None
    """Of a column of times that are numbers."""


class Derived(ConfigModel):
    """A feature computed from other columns of the same payment. A missing input gives a missing value.

    Attributes:
        name: The feature's name, used in `features`, as a key, a segment or the amount.
        kind: How it is computed.
        columns: The columns of the log that it is computed from. The kinds of one time take event.time if this is
            empty.
        length: Of "prefix": how many characters.
        pattern: Of "pattern": a regular expression. The value is its first group, or all of it without groups.
        zone: Of the kinds of one time: the time zone, such as "Europe/Berlin".
        time_unit: The unit of columns of times that are numbers. event.time has its own.
    """

    name: Column
    kind: Kind
    columns: Annotated[tuple[Column, ...], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = ()
    length: int | None = Field(default=None, ge=1)
    pattern: str | None = Field(default=None, min_length=1)
    zone: str | None = None
    time_unit: Unit | None = None

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None and value not in zoneinfo.available_timezones():
            raise ValueError(f"must be the name of a time zone such as Europe/Berlin (got {value!r})")
        return value

    @field_validator("pattern")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        import polars as pl

        try:
            if value is not None:
                re.compile(value)
                pl.Series([""]).str.contains(value)
        except (re.error, pl.exceptions.PolarsError):
            rule = "must be a regular expression without look-around and back-references"
            raise ValueError(f"{rule} (got {value!r})") from None
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        needed = len(INPUTS[self.kind])
        if len(self.columns) != needed and not (self.kind in IN_A_ZONE and not self.columns):
            raise ValueError(f"columns must be {needed} for kind={self.kind!r} (got {list(self.columns)})")
        for option, of in (("length", {"prefix"}), ("pattern", {"pattern"}), ("zone", IN_A_ZONE)):
            given = getattr(self, option) is not None
            if given and self.kind not in of:
                raise ValueError(f"{option} is only for kind={' or '.join(sorted(of))} (got kind={self.kind!r})")
            if not given and self.kind in of and option != "zone":
                raise ValueError(f"{option} is required for kind={self.kind!r}")
        if self.time_unit is not None and "time" not in INPUTS[self.kind]:
            raise ValueError(f"time_unit is only for kinds computed from times (got kind={self.kind!r})")
        return self

    @property
    def group(self) -> int:
        """The group of `pattern` that is the value."""
        return min(1, re.compile(self.pattern or "").groups)

    def inputs(self, event_time: str, event_unit: Unit | None) -> tuple[DerivedInput, ...]:
        """The columns to read, in order."""
        columns = self.columns or (event_time,)
        return tuple(
            DerivedInput(column, kind, event_unit if column == event_time else self.time_unit)
            for column, kind in zip(columns, INPUTS[self.kind], strict=True)
        )
