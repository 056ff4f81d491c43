"""The sections of a market file as models, each with the rules that can be checked within it.

Rules between sections are in `tsa.config.validation`.
"""

from __future__ import annotations

import math
import re
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from tsa.config.base import Column, ConfigModel, Instant
from tsa.config.derived import Derived
from tsa.times import DAY_SECONDS

LABEL_TEXTS = {**dict.fromkeys(("true", "t", "yes", "y"), 1), **dict.fromkeys(("false", "f", "no", "n"), 0)}
"""Further spellings of an outcome, in upper or lower case."""
Calendar = Literal["hour_of_day", "day_of_week", "day_of_month", "month"]


def _scalar(value: object) -> object:
    if not isinstance(value, str | int | float):  # a bool is an int
        raise ValueError(f"must be a string, a number or a boolean (got {value!r})")
    return value


def _named(value: object) -> object:
    """`"x"` is short for `{ name = "x" }`, so that markets with hundreds of features stay readable."""
    return {"name": value} if isinstance(value, str) else value


Positive = Annotated[float, Field(gt=0, le=1)]


class RowRule(ConfigModel):
    """Rows whose `column` has one of `values`; without these, `column` is true or false. "x" is `{ column = "x" }`."""

    column: Column
    values: tuple[Annotated[Any, AfterValidator(_scalar)], ...] | None = Field(default=None, min_length=1)


def _rule(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


class Event(ConfigModel):
    """The columns of the payment itself. `time_unit` is for numeric times: epoch s, ms, us or ns.

    Attributes:
        scored: The events that are scored; all others are only part of histories. None: all are scored.
        asks: Events that only ask for a score: scored, and part of no later history. None: there are none.
        earliest: An event before this breaks a rule. None: 1990.
        latest: So does one after this. None: ten years from now.
    """

    id: Column
    time: Column
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    amount: Column | None = None
    scored: Annotated[RowRule, BeforeValidator(_rule)] | None = None
    asks: Annotated[RowRule, BeforeValidator(_rule)] | None = None
    earliest: Instant | None = None
    latest: Instant | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.earliest is not None and self.latest is not None and not self.earliest < self.latest:
            got = f"{self.earliest.isoformat()} to {self.latest.isoformat()}"
            raise ValueError(f"earliest must be before latest (got {got})")
        return self

    @property
    def role_rules(self) -> tuple[RowRule, ...]:
        """`scored` and `asks`, those that are given."""
        return tuple(rule for rule in (self.scored, self.asks) if rule is not None)


Outcomes = tuple[Annotated[Any, AfterValidator(_scalar)], ...]


class Label(ConfigModel):
    """The outcome. It is known `delay_days` later, or at the time in column `known_at`.

    Attributes:
        column: 1 or yes (fraud), 0 or no (genuine); null or -1: unknown. Or the values of `fraud` and `genuine`.
        fraud: Values that mean fraud. "" is a missing value.
        genuine: Values that mean genuine.
        decision: The payments that were declined. They have no outcome, whatever the column says.
    """

    column: Column
    delay_days: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    known_at: Column | None = None
    as_feature: bool = False
    fraud: Outcomes | None = Field(default=None, min_length=1)
    genuine: Outcomes | None = Field(default=None, min_length=1)
    decision: Annotated[RowRule, BeforeValidator(_rule)] | None = None

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if (self.fraud is None) != (self.genuine is None):
            raise ValueError("fraud and genuine must be given together (got one of them)")
        if both := [value for value in self.fraud or () if value in (self.genuine or ())]:
            raise ValueError(f"fraud and genuine must not share values (got {both[0]!r} in both)")
        return self

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.delay_days is None and self.known_at is None:
            raise ValueError("needs delay_days or known_at (got neither)")
        return self

    @property
    def gap_seconds(self) -> float:
        """The gap before the test range. With `known_at`, delay_days has no other use."""
        return (self.delay_days or 0.0) * DAY_SECONDS


class HistoryView(NamedTuple):
    """A history as one column of the current payment names its key."""

    name: str
    """As the model, aggregates and reasons call it: the history's name or, of one with several columns, `account_sender`."""
    history: str
    """The history's name."""
    key: str | None
    """The column."""
    length: int
    columns: tuple[str, ...]
    """All columns that name a key of this history."""

    @property
    def has_roles(self) -> bool:
        """Whether an event of the history can have its key in one of several columns."""
        return len(self.columns) > 1


class HistoryConfig(ConfigModel):
    """One history: the last `length` events (the current one included) with the same value of `key`.

    With `keys`, a value in any of these columns is the same key: an account that sends here and receives there. The
    model then sees one history for each of the columns, and in which of them each event has the key (its role).
    If rows carry their own history, the key is optional and only used in the report.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    key: Column | None = None
    keys: tuple[Column, ...] | None = Field(default=None, min_length=2, max_length=8)
    length: int = Field(default=51, ge=2)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.key is not None and self.keys is not None:
            raise ValueError("takes key, or keys (got both)")
        if self.keys is not None and len(set(self.keys)) < len(self.keys):
            raise ValueError(f"keys must be different columns (got {list(self.keys)})")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that name a key."""
        return self.keys or (() if self.key is None else (self.key,))

    @property
    def role_name(self) -> str:
        """The feature that says in which of `keys` an event has the key."""
        return f"{self.name} role"

    @cached_property
    def views(self) -> tuple[HistoryView, ...]:
        """The history once for each of its columns."""
        if self.keys is None:
            return (HistoryView(self.name, self.name, self.key, self.length, self.columns),)
        names = (f"{self.name}_{re.sub(r'[^A-Za-z0-9_]', '_', column)}" for column in self.keys)
        return tuple(
            HistoryView(name, self.name, column, self.length, self.keys)
            for name, column in zip(names, self.keys, strict=True)
        )


class Categorical(ConfigModel):
    """Values seen fewer than `min_count` times, and all beyond the `max_values` most frequent, count as unknown."""

    name: Column
    min_count: int = Field(default=10, ge=1)
    max_values: int = Field(default=10_000, ge=1)


class Numerical(ConfigModel):
    """A number, transformed, then scaled as fitted on training rows."""

    name: Column
    transform: Literal["none", "log1p", "signed_log1p"] = "none"
    scale: Literal["minmax", "standard", "quantile"] = "standard"


class Exclude(ConfigModel):
    """Rows whose `column` has one of `values` (such as test accounts) are excluded and counted."""

    column: Column
    values: tuple[Annotated[Any, AfterValidator(_scalar)], ...]


class Features(ConfigModel):
    """What the model sees of an event. Engineered features are numbers of the current payment only."""

    calendar: tuple[Calendar, ...] = ()
    categorical: tuple[Annotated[Categorical, BeforeValidator(_named)], ...] = ()
    numerical: tuple[Annotated[Numerical, BeforeValidator(_named)], ...] = ()
    engineered: tuple[Annotated[Numerical, BeforeValidator(_named)], ...] = ()
    exclude: tuple[Exclude, ...] = ()
    derived: tuple[Derived, ...] | None = None
    """Columns that are computed, and used by their names like columns of the log."""

    @field_validator("derived")
    @classmethod
    def _none_if_empty(cls, value: tuple[Derived, ...] | None) -> tuple[Derived, ...] | None:
        """So that the market stays the same."""
        return value or None

    @property
    def derivations(self) -> tuple[Derived, ...]:
        """`derived`, or nothing."""
        return self.derived or ()

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that are features, derived ones included: categorical, numerical, engineered, in that order."""
        numbers = (*self.numerical, *self.engineered)
        return (*(feature.name for feature in self.categorical), *(feature.name for feature in numbers))


class Evaluation(ConfigModel):
    """Columns to report by, the history whose keys are ranked (default: the first), and how many of them a day; by default
    as many as fit the number of keys that have a fraud a day."""

    segments: tuple[Column, ...] = ()
    entity: str | None = None
    top_k: int | None = Field(default=None, ge=1)


def _levels(pair: tuple[float, float]) -> tuple[float, float]:
    warning, alert = pair
    if not (0 < warning <= alert and math.isfinite(alert)):
        raise ValueError(f"must be two numbers above 0, for a warning and for an alert (got {list(pair)})")
    return pair


Levels = Annotated[tuple[float, float], AfterValidator(_levels)]


class Monitoring(ConfigModel):
    """Thresholds of `tsa monitor`: (warning, alert). All but `psi` and `score_psi` are shares: 0.1 is 10 %.

    Attributes:
        psi: Population stability index of a feature.
        score_psi: Population stability index of the raw score.
        missing_rate: Change of the share of payments without a value, up or down.
        unknown_rate: Rise of the share of payments whose value the bundle does not know.
        operating_point_change: Relative change of the share of payments above the score that cuts off each of
            `top_shares`.
        volume: Relative change of the payments per day, by weekday.
        average_precision_drop: Relative fall of average precision.
        calibration: Distance of (expected / observed frauds) from 1.
        ignore: Features that are measured but raise no warning or alert.
    """

    window: Literal["day", "week"] = "week"
    psi: Levels = (0.1, 0.25)
    missing_rate: Levels = (0.02, 0.1)
    unknown_rate: Levels = (0.02, 0.1)
    score_psi: Levels = (0.1, 0.25)
    top_shares: tuple[Positive, ...] = (0.001, 0.005, 0.01, 0.05)
    operating_point_change: Levels = (0.5, 1.0)
    volume: Levels = (0.3, 0.5)
    average_precision_drop: Levels = (0.1, 0.25)
    calibration: Levels = (0.25, 0.5)
    min_frauds: int = Field(default=10, ge=1)
    """With fewer known frauds, a window has no performance metrics."""
    min_matured_share: float = Field(default=0.5, ge=0, le=1)
    """With known outcomes for a smaller share of the window's payments, performance raises no warning or alert."""
    ignore: tuple[Column, ...] = ()
