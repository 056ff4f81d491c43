"""The rules for normalising a value's text, shared by logs and single payments, whatever format it comes from.

A text is missing if it is blank or listed in `[input] missing`. `True` becomes `true` and `27.0` becomes `27`;
`007`, `1e3` and `1.50` do not change. `columns` applies the rules to columns, `values` to single values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property

from tsa.config.input import FALSE, TRUE
from tsa.config.market import Market

EARLIEST_SECONDS = 631_152_000.0  # 1990-01-01
MAX_EXACT = 2.0**53  # beyond this, integers are not exact as floats
UNIT_SCALE = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}

BLANKS = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""The characters that Polars strips; Python's `strip` removes four more."""

INTEGER_FLOAT = r"-?(?:0|[1-9][0-9]*)\.0+|-0"
"""Integers with a zero fraction, as floats are written, without leading zeros."""
COMMA_NUMBER = r"^[+-]?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+)?(?:,[0-9]*)?(?:[eE][+-]?[0-9]+)?$"
"""A number with a decimal comma: dots may group its thousands."""


def _at_least(number: int) -> str:
    """A regular expression of the whole numbers from `number` on."""
    digits = str(number)
    same_length = [
        rf"{digits[:at]}[{int(digit) + 1}-9][0-9]{{{len(digits) - at - 1}}}"
        for at, digit in enumerate(digits)
        if digit != "9"
    ]
    return "|".join([digits, *same_length, rf"[1-9][0-9]{{{len(digits)},}}"])


SHORTENED = (
    r"^-?[0-9](?:\.[0-9]+)?[eE]\+[0-9]+$|^-?[0-9]\.[0-9]+[eE][0-9]+$"
    rf"|^-?(?:{_at_least(int(MAX_EXACT))})\.0$"
)
"""Numbers from which a spreadsheet or float column has dropped digits: different ids may look the same. With one zero
after the point, floats are written that are too large to hold every integer.
"""
SHORTENED_TIME = r"^[0-9](?:[.,][0-9]{1,5})?[eE]\+?[0-9]+$"
"""Numbers with six digits at most, as spreadsheets and `%g` shorten them: too few for a present-day time."""
EXACT_BITS = {16: 2.0**11, 32: 2.0**24, 64: MAX_EXACT}
"""By bits of a float: the number from which integers are no longer exact."""


@dataclass(frozen=True)
class Spelling:
    """The texts of a market that mean "no value". exact: all other texts are used unchanged, as another system wrote
    them.
    """

    missing: frozenset[str]
    exact: bool = False
    decimal_comma: bool = False
    """Whether numbers in texts have a comma before the decimals."""
    zone: str | None = None
    """The time zone of times without an offset; None: UTC."""

    @classmethod
    def of(cls, market: Market) -> Spelling:
        """The spelling of a market: of logs as `[input]` says; rows that carry their own history are normalised
        already.
        """
        reading = market.reading
        if market.wire is not None:
            return cls(frozenset(), exact=True)
        return cls(frozenset(reading.missing), decimal_comma=reading.decimal == ",", zone=reading.time_zone)

    @cached_property
    def missing_pattern(self) -> str:
        """A regular expression of the texts that mean "no value", for Python and Polars alike."""
        return rf"^\s*(?:{'|'.join(re.escape(text) for text in sorted({'', *self.missing}))})\s*$"

    @cached_property
    def changed_pattern(self) -> str:
        """A regular expression of all texts that normalising changes."""
        return rf"{self.missing_pattern}|^(?:{'|'.join((*TRUE, *FALSE))})$|^(?:{INTEGER_FLOAT})$"

    def of_text(self, text: str) -> str | None:
        """The normal form of a text; None if it means "no value"."""
        if self.exact:
            return text or None
        stripped = text.strip(BLANKS)
        if not stripped or stripped in self.missing:
            return None
        if text in TRUE or text in FALSE:
            return text.lower()
        return integer_text(text) if _INTEGER_TEXT.fullmatch(text) else text


_INTEGER_TEXT = re.compile(INTEGER_FLOAT)


def plain_digits(text: str) -> str:
    """A number without exponent: `1.5e-7` is `0.00000015`, `1e16` is `10000000000000000`. Other texts are unchanged."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if not number.is_finite():
        return text
    digits = f"{number:f}"
    return re.sub(r"\.?0+$", "", digits) if "." in digits else digits


def integer_text(text: str) -> str:
    """`-27.00` becomes `-27`, and `-0` becomes `0`."""
    digits = text.partition(".")[0]
    return "0" if digits == "-0" else digits
