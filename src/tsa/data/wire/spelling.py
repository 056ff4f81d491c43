"""How values of wire rows are spelled: JSON values as texts, and numbers as the legacy system's handlers read them.

It knows single values. It does not know rows, files, or which row of the embedding table a text has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import polars as pl

from tsa.data.wire.layout import FieldLayout

Spell = Callable[[str], str | None]

WORDS = frozenset({"false"})
"""What the legacy system leaves as it is among the numbers of a category, in the payment itself alone."""


def integer(text: str) -> str | None:
    """A number through an integer, as Python reads both; None for what is no finite number."""
    try:
        return str(int(float(text)))
    except (ValueError, OverflowError):
        return None


def decimal(text: str) -> str | None:
    """A number with a fraction in its shortest spelling, 0 without one; None for what is no number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return "0" if value == 0 else str(value)


def number(text: str) -> float:
    """What Python reads as a number: blanks around it, `1_000` and digits of any script too. Infinite for what is none."""
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if math.isfinite(value) else math.inf


def respelled(texts: pl.Series, spell: Spell) -> pl.Series:
    """Texts, each as `spell` spells it where it does; each different one is looked at once."""
    old = texts.drop_nulls().unique().to_list()
    new = [text if (found := spell(text)) is None else found for text in old]
    return texts.replace(old, new) if old != new else texts


def as_integers(texts: pl.Series) -> pl.Series:
    """`integer` of each: what Polars reads at once, the rest one by one."""
    whole = texts.str.strip_chars().cast(pl.Float64, strict=False).cast(pl.Int64, strict=False).cast(pl.String)
    rest = whole.is_null() & texts.is_not_null()
    if not rest.any():
        return whole
    return whole.zip_with(~rest, respelled(texts, integer))


def as_decimals(texts: pl.Series) -> pl.Series:
    """`decimal` of each."""
    return respelled(texts, decimal)


class OwnTexts:
    """What texts the values of a payment's own fields are, for a market."""

    def __init__(self, layout: FieldLayout) -> None:
        event = layout.market.event
        self._id, self._legacy = event.id, layout.wire.legacy
        self._numbers = layout.numeric | layout.decimal
        self._plain = frozenset(layout.categorical) - self._numbers
        self._null = self._plain if layout.wire.accepts("null_category") else frozenset[str]()

    def of(self, name: str, value: Any, *, there: bool) -> str | None:
        """The text; None for a value that is no text, number or truth value. there: whether the row has the field."""
        if isinstance(value, str):
            return value
        if isinstance(value, bool) and name != self._id:
            return self.of_truth(name, value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return repr(value)
        if name == self._id and (value is None or self._legacy):
            return ""  # nothing depends on it
        if value is None and there and name in self._null:
            return str(value)  # what the legacy system looks up, and knows no more than any other unknown value
        return None

    def of_truth(self, name: str, value: bool) -> str:
        """true is 1 among the numbers of a category."""
        if name in self._numbers:
            return str(int(value))
        return str(value) if self._legacy and name in self._plain else str(value).lower()

    @property
    def of_null(self) -> frozenset[str]:
        """Fields in which null is a value of its own, one that is not known."""
        return self._null
