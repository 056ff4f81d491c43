"""Lines of text tables: whether each is a row of as many fields as the first has. It knows separators and quotes, not columns.

Lines are looked at all together. Only where some are odd is the table read field by field: they may be parts of rows that go
over several lines, in quotes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from tsa.data.log.file_heads import LINE
from tsa.errors import DataError

QUOTE, MARK, NUL = '"', "\x01", "\x00"
MAX_FIELD_BYTES = 2**24
"""Bytes of a field that goes over several lines: of a quote that nothing closes, no more is read."""


def check_lines(path: str, separator: str, count: int, *, quoted: bool = True) -> bool:
    """DataError for the first line that is no row of `count` fields; whether there are blank lines, which are no rows.

    A row with more fields, the first of them not empty, is left to the rules for rows, which can set it aside.
    quoted: whether a field may stand in quotes, separators and all.
    """
    lines = pl.scan_lines(path, name=LINE, glob="://" in path)
    line, odd = pl.col(LINE), _Odd(separator, quoted)
    blank = line.str.strip_chars(" \t\r".replace(separator, "")) == ""
    fields = odd.bare.str.count_matches(separator, literal=True) + 1
    broken = ~blank & ((fields < count) | odd.quotes | line.str.contains(NUL, literal=True))
    found = lines.select(
        broken=broken.any(), long=(fields > count).any(), blank=blank.any(), left=line.str.ends_with("\r").any()
    ).collect(engine="streaming")
    if found["left"].item():  # one CR before the LF is gone already
        at = lines.with_row_index("at").filter(line.str.ends_with("\r")).select("at").head(1).collect().item()
        raise DataError(f"{path}: line {at + 1} ends in CR CR LF; save it with line ends of LF or CRLF")
    if found["broken"].item() or (found["long"].item() and _hides_a_comma(lines, odd.bare, separator, count)):
        _Table(path, separator, count, quoted).check(lines)
    return bool(found["blank"].item())


class _Odd:
    """Expressions over lines, for one separator."""

    def __init__(self, separator: str, quoted: bool) -> None:
        line, mark = pl.col(LINE), re.escape(separator)
        self.bare, self.quotes = line, pl.lit(value=False)
        if quoted:  # quotes cost time and are rare
            has_quote = line.str.contains(QUOTE, literal=True)
            whole = line.str.replace_all(rf'(^|{mark})"(?:[^"]|"")*"', f"${{1}}{MARK}")
            self.bare = pl.when(has_quote).then(whole).otherwise(line)
            opened = self.bare.str.contains(rf'{MARK}[^{mark}\r]|(?:^|{mark})"')
            self.quotes = has_quote & (opened | (self.bare.str.count_matches(QUOTE, literal=True) % 2 == 1))


def _hides_a_comma(lines: pl.LazyFrame, bare: pl.Expr, separator: str, count: int) -> bool:
    """Whether the field after the last column is empty in a longer row: then nothing shows that fields are shifted."""
    fields = lines.select(bare.str.strip_suffix("\r").str.split(separator).alias("fields"))
    hidden = (pl.col("fields").list.len() > count) & (pl.col("fields").list.get(count, null_on_oob=True) == "")
    return bool(fields.select(hidden.any()).collect(engine="streaming").item())


@dataclass
class _Table:
    """A table that is read field by field, to find the line that is wrong."""

    path: str
    separator: str
    count: int
    quoted: bool
    held: list[str] = field(default_factory=list)
    """The lines of the row at hand."""
    short: list[tuple[int, int]] = field(default_factory=list)
    """Of rows with too few fields the last line and how many it has."""

    def check(self, lines: pl.LazyFrame) -> None:
        """DataError for what is wrong first."""
        csv.field_size_limit(MAX_FIELD_BYTES)
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        rows = csv.reader(self._fed(lines), delimiter=self.separator, quoting=quoting, strict=True)
        first = 1
        while (row := self._next(rows, first)) is not None:
            self._check_row(row, first)
            first += len(self.held)
            self.held.clear()
        self._refuse_short()

    def _fed(self, lines: pl.LazyFrame) -> Iterator[str]:
        for batch in lines.collect_batches(maintain_order=True):
            for line in batch[LINE]:
                self.held.append(line)
                yield f"{line}\n"

    def _next(self, rows: Iterator[list[str]], first: int) -> list[str] | None:
        try:
            return next(rows, None)
        except csv.Error as error:
            if len(self.held) == 1 and "field limit" in str(error):
                raise self._fault(first, f"cannot be read: {error}") from None
            raise self._quote(first) from None

    def _quote(self, first: int) -> DataError:
        last = first + len(self.held) - 1
        what = f"is not closed before line {last}" if last > first else "does not stand around a whole field"
        return self._fault(first, f"a quote {what}; put quotes around the whole field and double those inside it")

    def _check_row(self, row: list[str], first: int) -> None:
        if any(NUL in line for line in self.held):
            raise self._fault(first, "holds a NUL byte: is the file whole, and in UTF-8?")
        if self.quoted and (self._swallows() or self._has_lone_quote()):
            raise self._quote(first)
        if len(row) <= 1 and not "".join(row).strip():
            return
        last = first + len(self.held) - 1
        if len(row) < self.count:
            self.short.append((last, len(row)))
        elif len(row) > self.count and not row[self.count].strip("\r"):
            has = f"has {len(row)} fields and the first line {self.count}"
            raise self._fault(last, f"{has}: put quotes around a field that holds {self.separator!r}")

    def _swallows(self) -> bool:
        """Whether a row of several lines consists of lines that are rows themselves."""
        whole = sum(line.count(self.separator) == self.count - 1 for line in self.held)
        return min(len(self.held), self.count) > 1 and 2 * whole > len(self.held)

    def _has_lone_quote(self) -> bool:
        """Whether quotes inside fields are not in pairs: Polars takes the line's end for a part of a field then."""
        bare = re.sub(rf'(^|{re.escape(self.separator)})"(?:[^"]|"")*"', r"\1", "\n".join(self.held))
        return bare.count(QUOTE) % 2 == 1

    def _fault(self, line: int, text: str) -> DataError:
        self._refuse_short()
        return DataError(f"{self.path}: line {line}: {text}")

    def _refuse_short(self) -> None:
        if self.short:
            number, has = self.short[0]
            more = f" (and {len(self.short) - 1} more lines have fewer)" if len(self.short) > 1 else ""
            raise DataError(
                f"{self.path}: the first line has {self.count} fields, and so must all others, but line {number} "
                f"has {has}{more}: is the file whole?"
            )


def has_lone_quotes(path: str, separator: str) -> bool:
    """Whether a quote stands elsewhere than around a whole field, or doubled inside such a one, which holds no separator."""
    whole = rf'(^|{re.escape(separator)})"(?:[^"{re.escape(separator)}]|"")*"'
    line = pl.col(LINE)
    left = line.str.replace_all(whole, f"${{1}}{MARK}")
    lone = left.str.contains(QUOTE, literal=True) | left.str.contains(f"{MARK}[^{re.escape(separator)}]")
    lines = pl.scan_lines(path, name=LINE, glob="://" in path).filter(line.str.contains(QUOTE, literal=True))
    return bool(lines.select(lone.any()).collect(engine="streaming").item())
