"""Shorten values and texts for messages and tables: one line of limited length."""

from __future__ import annotations

import reprlib

SHOWN = 40
"""Default number of characters of a value in a message."""


def shorten(text: str, max_length: int = SHOWN, mark: str = "...") -> str:
    """The text; if it has more than `max_length` characters, its beginning and `mark`, `max_length` in all."""
    return text if len(text) <= max_length else f"{text[: max(0, max_length - len(mark))]}{mark}"[:max_length]


def brief(text: object, max_length: int = 100) -> str:
    """One line of at most `max_length` characters, to quote files and other programs in a message."""
    return shorten(" ".join(str(text).split()), max_length)


def truncate_repr(value: object, max_length: int = SHOWN) -> str:
    """`repr(value)` in at most `max_length` characters. Large and nested values are visited only as far as needed."""
    try:
        return shorten(_Short(max_length).repr(value), max_length)
    except ValueError:  # a number with more digits than Python converts to text
        return shorten(f"{type(value).__name__} with too many digits to show", max_length)


class _Short(reprlib.Repr):
    """Visits at most `max_length` values, each of which takes at least one character. A few hundred bytes of a pickle can
    hold a list of 10^16 parts, so a limit per list and level is not enough.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.maxlevel, self._left = 4, max_length
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = max_length
        self.maxstring = self.maxlong = self.maxother = 2 * max_length

    def repr1(self, x: object, level: int) -> str:
        """As `reprlib.Repr`."""
        self._left -= 1
        return super().repr1(x, level) if self._left >= 0 else "..."


PLURALS = {
    "fraud with an amount": "frauds with an amount",
    "payment at or above the threshold": "payments at or above the threshold",
    "fraud or payment at or above the threshold": "frauds or payments at or above the threshold",
    "entity with a fraud": "entities with a fraud",
    "payment with an entity": "payments with an entity",
}
"""Plurals of phrases."""


def plural(n: int, what: str) -> str:
    """A number with its noun: `1 fraud`, `2 frauds with an amount`."""
    return f"{n:,} {what if n == 1 else PLURALS.get(what, f'{what}s')}"
