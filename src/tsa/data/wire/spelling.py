"""Convert JSON values of wire rows to texts, and parse numbers as the legacy handlers do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import polars as pl

from tsa.data.wire.layout import FieldLayout

Normaliser = Callable[[str], str | None]

WORDS = frozenset({"false"})
"""Texts that the legacy system does not convert to a category number, in the payment itself only."""


def integer(text: str) -> str | None:
    """A number's text as an integer, parsed as Python does; None if it is not a finite number."""
    try:
        return str(int(float(text)))
    except (ValueError, OverflowError):
        return None


def decimal(text: str) -> str | None:
    """A number as Python spells it as a float (`3.0`), and zero as `0`; None if it is not a number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return "0" if value == 0 else str(value)


def number(text: str) -> float:
    """Parse a number as Python does, with blanks, `1_000` and digits of any script. Infinite if it is not a number."""
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if math.isfinite(value) else math.inf


def map_texts(texts: pl.Series, normalise: Normaliser) -> pl.Series:
    """Texts changed by `normalise`, unless it returns None. Each distinct text is processed once."""
    old = texts.drop_nulls().unique().to_list()
    new = [text if (normalised := normalise(text)) is None else normalised for text in old]
    return texts.replace(old, new) if old != new else texts


def as_integers(texts: pl.Series) -> pl.Series:
    """`integer` of each text: what Polars parses at once, the rest one by one."""
    integers = texts.str.strip_chars().cast(pl.Float64, strict=False).cast(pl.Int64, strict=False).cast(pl.String)
    rest = integers.is_null() & texts.is_not_null()
    if not rest.any():
        return integers
    return integers.zip_with(~rest, map_texts(texts, integer))


def as_decimals(texts: pl.Series) -> pl.Series:
    """`decimal` of each text."""
    return map_texts(texts, decimal)


def _digits(value: float) -> str | None:
    """A number as Python spells it; None for an integer of more digits than Python converts to text."""
    try:
        return repr(value)
    except ValueError:
        return None


JSON_NULL = "JSON null"
"""The text of a null in a category: no value of a vocabulary, so that it is unknown."""


class OwnTexts:
    """Converts the values of a payment's own fields to texts, as the market says."""

    def __init__(self, layout: FieldLayout) -> None:
        event = layout.market.event
        self._id, self._legacy = event.id, layout.wire.legacy
        self._numbers = layout.numeric | layout.decimal
        self._plain = frozenset(layout.categorical) - self._numbers
        self._null = self._plain if layout.wire.accepts("null_category") else frozenset[str]()

    def of(self, name: str, value: Any, *, present: bool) -> str | None:
        """The text of a value; None if it is not a text, number or boolean.

        Args:
            present: Whether the row has the field.
        """
        if isinstance(value, str):
            return value
        if isinstance(value, bool) and name != self._id:
            return self.of_truth(name, value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _digits(value)
        if name == self._id and (value is None or self._legacy):
            return ""  # no rule depends on it
        if value is None and present and name in self._null:
            return JSON_NULL
        return None

    def of_truth(self, name: str, value: bool) -> str:
        """A boolean as text: `true` is 1 in a category that holds numbers."""
        return str(int(value)) if name in self._numbers else str(value).lower()

    @property
    def of_null(self) -> frozenset[str]:
        """Fields in which null is a value, an unknown one."""
        return self._null
