"""`[input]`: how logs and single payments are written."""

from __future__ import annotations

import codecs
import math
import zoneinfo
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from tsa.config.base import Column, ConfigModel

TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
"""Spellings of the booleans in formats and programs."""
MISSING = ("", r"\N", "NULL", "null", "NaN", "nan", "NaT", "None", "<NA>")
"""Texts for a missing value: of Hive and MySQL, databases, floats, pandas, Python."""
UTF_8 = "utf-8"


def _marker(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isnan(number) or text in (*TRUE, *FALSE):
        raise ValueError(f"must be a text that is neither a number nor true or false (got {text!r}); leave it out")
    return text.strip()


class Joined(ConfigModel):
    """A column made of several: a date and a time of day, or an id of shop and receipt number.

    Attributes:
        name: The name of the new column.
        columns: The columns, in order. If one has no value, the new column has none.
        separator: The text between their values.
    """

    name: Column
    columns: tuple[Column, ...] = Field(min_length=2)
    separator: str = " "


class Input(ConfigModel):
    """How logs and single payments are written.

    Attributes:
        missing: Texts that mean "no value" in any column. Blank always does.
        duplicates: Rows with the same id: "refuse" them, or use the "last" one if they differ only in the outcome.
        separator: The character between the fields of a table. None: detected in the first line.
        quote: The character around a field of a table; "" for none. None: `"`.
        encoding: Of text files, such as "windows-1252". None: UTF-8, or what the first bytes of a file say.
        decimal: The character before the decimals of a number in a text. With ",", dots may group the thousands. None:
            what the first rows of a file say, else ".".
        time_zone: Of times without an offset, such as "Europe/Berlin". None: UTC.
        joined: Columns made of several.
    """

    missing: tuple[Annotated[str, AfterValidator(_marker)], ...] = MISSING
    duplicates: Literal["refuse", "last"] = "refuse"
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    quote: str | None = Field(default=None, max_length=1)
    encoding: str | None = None
    decimal: Literal[".", ","] | None = None
    time_zone: str | None = None
    joined: tuple[Joined, ...] | None = None

    @field_validator("separator", "quote")
    @classmethod
    def _one_byte(cls, value: str | None) -> str | None:
        if value and (not value.isascii() or value.isalnum() or value in "\r\n\0"):
            raise ValueError(f"must be one ASCII character that is no letter, digit or line end (got {value!r})")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            return None if value is None else codecs.lookup(value).name
        except LookupError:
            rule = "must be an encoding that Python knows, such as windows-1252 or utf-16"
            raise ValueError(f"{rule} (got {value!r})") from None

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str | None) -> str | None:
        if value is not None and value not in zoneinfo.available_timezones():
            raise ValueError(f"must be the name of a time zone such as Europe/Berlin (got {value!r})")
        return value

    @field_validator("joined")
    @classmethod
    def _none_if_empty(cls, value: tuple[Joined, ...] | None) -> tuple[Joined, ...] | None:
        return value or None

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.separator is not None and self.separator in (self.quote or '"'):
            raise ValueError(f"separator must not be the quote (got {self.separator!r})")
        names = [made.name for made in self.joined or ()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"joined: names must be unique, but {twice[0]!r} occurs twice")
        if inner := [c for made in self.joined or () for c in made.columns if c in names]:
            raise ValueError(f"joined: must be made of columns of the log (got {inner[0]!r})")
        return self
