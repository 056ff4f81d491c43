"""Columns of a log whose use is known, so that they are not guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tsa.data.proposal.guesses import Guess, outcome_values
from tsa.data.proposal.profile import LogSample, unit_of
from tsa.data.spelling import UNIT_SCALE
from tsa.errors import DataError
from tsa.text import brief

GIVEN = "given"
"""The evidence of a column that was not guessed."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """The columns that the user names; None or nothing: to be guessed."""

    time: str | None = None
    id: str | None = None
    label: str | None = None
    amount: str | None = None
    keys: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them."""
        single = (self.time, self.id, self.label, self.amount)
        return (*(name for name in single if name is not None), *self.keys)

    def checked(self, sample: LogSample) -> LogSample:
        """The sample in which the given time is a time, also where numbers have a name that does not say so.

        Raises:
            DataError: Names the column that the log lacks, that is given twice, or that cannot be what it is given as.
        """
        if missing := [name for name in self.columns if name not in sample.columns]:
            raise DataError(
                f"log: has no column {brief(missing[0])} (got {', '.join(sample.columns)}): correct the name"
            )
        if twice := [name for name in self.columns if self.columns.count(name) > 1]:
            raise DataError(f"a column must have one use (got {brief(twice[0])} for several): name each column once")
        return self._with_time(sample)

    def _with_time(self, sample: LogSample) -> LogSample:
        if self.time is None or (one := sample.columns[self.time]).kind == "time":
            return sample
        if one.kind != "number" or (unit := unit_of(one.low, one.high)) is None:
            values = ", ".join(map(repr, one.values[:3]))
            rule = f"the time column {brief(self.time)} must hold dates with times, or seconds since 1970 (ms, us and ns too)"
            raise DataError(f"{rule} (got {values}): write times as 2025-01-31 12:00:00")
        scale = UNIT_SCALE[unit]
        low, median, high = (value / scale for value in (one.low, one.median, one.high))
        made = replace(one, kind="time", unit=unit, low=low, median=median, high=high)
        return replace(sample, columns={**sample.columns, self.time: made})

    def label_guess(self, sample: LogSample) -> tuple[Guess, str | None, str | None] | None:
        """What `guess_label` returns, for the given outcome; None without one.

        Raises:
            DataError: If it has not two values.
        """
        if self.label is None:
            return None
        one = sample.columns[self.label]
        values = [value for value in one.values if value not in ("-1", "-1.0")]
        if len(values) != 2:
            rule = f"the outcome column {brief(self.label)} must have two values, and be empty where it is not known"
            advice = "use payments with both outcomes, or name the values in a market file"
            raise DataError(f"{rule} (got {', '.join(map(repr, values[:5])) or 'none'}): {advice}")
        return (Guess(one.name, GIVEN), *outcome_values(values))

    def key_guesses(self) -> Iterator[Guess]:
        """The keys of the histories."""
        yield from (Guess(name, GIVEN) for name in self.keys)


NOTHING_GIVEN = Given()
