"""Values and texts as messages and tables show them: on one line, and of a bounded length."""

from __future__ import annotations

import reprlib

SHOWN = 40
"""Characters of a value that a message about it shows, unless it says otherwise."""


def shorten(text: str, most: int = SHOWN, mark: str = "...") -> str:
    """The text, or its beginning and `mark` where it has more than `most` characters: never more than `most` in all."""
    return text if len(text) <= most else f"{text[: max(0, most - len(mark))]}{mark}"[:most]


def brief(text: object, most: int = 100) -> str:
    """One line of at most `most` characters: what a message quotes of files and of other programs."""
    return shorten(" ".join(str(text).split()), most)


def truncate_repr(value: object, most: int = SHOWN) -> str:
    """`repr(value)` of at most `most` characters. Large and nested values are not looked into further than that takes."""
    try:
        return shorten(_Short(most).repr(value), most)
    except ValueError:  # a number with more digits than Python spells
        return shorten(f"{type(value).__name__} with too many digits to show", most)


class _Short(reprlib.Repr):
    """Spells at most `most` values, each of which takes a character at least. A few hundred bytes of a pickle can hold a list
    of 10^16 parts, so a bound per list and level is not enough."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel, self._left = 4, most
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = most
        self.maxstring = self.maxlong = self.maxother = 2 * most

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
"""Of what is more than a noun."""


def plural(n: int, what: str) -> str:
    """1 fraud, 2 frauds with an amount."""
    return f"{n:,} {what if n == 1 else PLURALS.get(what, f'{what}s')}"
