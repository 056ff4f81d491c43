"""How one value is spelled, whatever format it comes from: the rules that logs and single payments share.

A text is missing when it is blank or one of the market's `[input] missing`; `True` is `true`; `27.0` is `27`; `007`, `1e3` and
`1.50` stay as they are. Plain constants, patterns and one small class: `columns` turns them into Polars expressions for
whole columns, `values` applies them to single values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property

from tsa.config.market import Market
from tsa.config.tables import FALSE, TRUE

EARLIEST_SECONDS = 631_152_000.0  # 1990-01-01
MAX_EXACT = 2.0**53  # whole floats beyond are not exact
UNIT_SCALE = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}

BLANKS = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What Polars strips from texts; Python's own `strip` takes four more."""

WHOLE = r"-?(?:0|[1-9][0-9]*)\.0+|-0"
"""Whole numbers with a fraction of nothing, as floats are written; no leading zeros, which numbers do not have."""
SHORTENED = r"^-?[0-9](?:\.[0-9]+)?[eE]\+[0-9]+$|^-?[0-9]\.[0-9]+[eE][0-9]+$"
"""Numbers of which spreadsheets and float columns have dropped digits: no two ids are the same for that reason alone."""
EXACT_BITS = {16: 2.0**11, 32: 2.0**24, 64: MAX_EXACT}
"""From here on, by the bits of a float, whole numbers run together."""


@dataclass(frozen=True)
class Spelling:
    """The texts of one market that mean "no value". exact: all others are taken as they stand, as another system wrote them."""

    missing: frozenset[str]
    exact: bool = False

    @classmethod
    def of(cls, market: Market) -> Spelling:
        """Of a market of logs what its `[input]` says; rows that carry their own history are spelled already."""
        return (
            cls(frozenset(), exact=True)
            if market.inline_history is not None
            else cls(frozenset(market.reading.missing))
        )

    @cached_property
    def missing_pattern(self) -> str:
        """A regular expression of the texts that mean "no value", for Python and Polars alike."""
        return rf"^\s*(?:{'|'.join(re.escape(text) for text in sorted({'', *self.missing}))})\s*$"

    @cached_property
    def odd_pattern(self) -> str:
        """A regular expression of all texts that are spelled in another way than they stand."""
        return rf"{self.missing_pattern}|^(?:{'|'.join((*TRUE, *FALSE))})$|^(?:{WHOLE})$"

    def of_text(self, text: str) -> str | None:
        """The one spelling of a text; None where it means "no value"."""
        if self.exact:
            return text or None
        stripped = text.strip(BLANKS)
        if not stripped or stripped in self.missing:
            return None
        if text in TRUE or text in FALSE:
            return text.lower()
        return spelled_whole(text) if _WHOLE.fullmatch(text) else text


_WHOLE = re.compile(WHOLE)


def plain_digits(text: str) -> str:
    """A number in digits alone: `1.5e-7` is `0.00000015`, `1e16` is `10000000000000000`; what is no number stays."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if not number.is_finite():
        return text
    spelled = f"{number:f}"
    return re.sub(r"\.?0+$", "", spelled) if "." in spelled else spelled


def spelled_whole(text: str) -> str:
    """`-27.00` is `-27`, and there is one zero."""
    whole = text.partition(".")[0]
    return "0" if whole == "-0" else whole
