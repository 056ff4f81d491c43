"""Check that each line of a text table has as many fields as the first.

All lines are checked at once with Polars. Only if some fail is the table parsed field by field: rows may span lines.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from tsa.data.log.file_heads import LINE
from tsa.errors import DataError

EXTRA = "__beyond the header"
"""The field after the last column of the header."""
QUOTE, MARK, NUL = '"', "\x01", "\x00"
MAX_FIELD_BYTES = 2**24
"""The longest field that is read, so that an unclosed quote does not read the rest of the file."""


def check_lines(path: str, separator: str, count: int, *, quote: str = QUOTE) -> bool:
    """Check the lines of a table.

    A row with more fields, the first of them not empty, is left to the row rules, which can quarantine it.

    Args:
        count: The fields of a row.
        quote: What may enclose a field, with separators in it; empty for nothing.

    Returns:
        Whether there are blank lines.

    Raises:
        DataError: For the first line that is not a row of `count` fields.
    """
    lines = pl.scan_lines(path, name=LINE, glob="://" in path)
    line, checks = pl.col(LINE), _LineChecks(separator, quote)
    blank = line.str.strip_chars(" \t\r".replace(separator, "")) == ""
    fields = checks.bare.str.count_matches(separator, literal=True) + 1
    broken = ~blank & ((fields < count) | checks.quotes | line.str.contains(NUL, literal=True))
    result = lines.select(
        broken=broken.any(), long=(fields > count).any(), blank=blank.any(), cr=line.str.ends_with("\r").any()
    ).collect(engine="streaming")
    if result["cr"].item():  # Polars strips one CR before the LF
        at = lines.with_row_index("at").filter(line.str.ends_with("\r")).select("at").head(1).collect().item()
        raise DataError(f"{path}: line {at + 1} ends in CR CR LF; save it with line ends of LF or CRLF")
    if result["broken"].item() or (result["long"].item() and _hides_a_comma(lines, checks.bare, separator, count)):
        _Table(path, separator, count, quote).check(lines)
    return bool(result["blank"].item())


class _LineChecks:
    """Polars expressions over the lines of a table with one separator."""

    def __init__(self, separator: str, quote: str) -> None:
        line, mark, q = pl.col(LINE), re.escape(separator), re.escape(quote)
        self.bare, self.quotes = line, pl.lit(value=False)
        if quote:  # quotes cost time and are rare
            has_quote = line.str.contains(quote, literal=True)
            unquoted = line.str.replace_all(_enclosed(separator, quote), f"${{1}}{MARK}")
            self.bare = pl.when(has_quote).then(unquoted).otherwise(line)
            opened = self.bare.str.contains(rf"{MARK}[^{mark}\r]|(?:^|{mark}){q}")
            self.quotes = has_quote & (opened | (self.bare.str.count_matches(quote, literal=True) % 2 == 1))


def _enclosed(separator: str, quote: str) -> str:
    """A regular expression of what comes before an enclosed field, as group 1, and the field."""
    q = re.escape(quote)
    return rf"(^|{re.escape(separator)}){q}(?:[^{q}]|{q}{q})*{q}"


def _hides_a_comma(lines: pl.LazyFrame, bare: pl.Expr, separator: str, count: int) -> bool:
    """Whether a row is longer and its first extra field is empty: the row rules would not notice that fields are shifted."""
    fields = lines.select(bare.str.strip_suffix("\r").str.split(separator).alias("fields"))
    hidden = (pl.col("fields").list.len() > count) & (pl.col("fields").list.get(count, null_on_oob=True) == "")
    return bool(fields.select(hidden.any()).collect(engine="streaming").item())


@dataclass
class _Table:
    """A table that is parsed field by field, to locate the bad line."""

    path: str
    separator: str
    count: int
    quote: str
    row_lines: list[str] = field(default_factory=list)
    """The lines of the current row."""
    short: list[tuple[int, int]] = field(default_factory=list)
    """Rows with too few fields: the number of the last line, and the number of fields."""

    def check(self, lines: pl.LazyFrame) -> None:
        """Raise DataError for the first bad line."""
        csv.field_size_limit(MAX_FIELD_BYTES)
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        quote = self.quote or None
        rows = csv.reader(
            self._lines_of(lines), delimiter=self.separator, quotechar=quote, quoting=quoting, strict=True
        )
        first = 1
        while (row := self._next(rows, first)) is not None:
            self._check_row(row, first)
            first += len(self.row_lines)
            self.row_lines.clear()
        self._refuse_short()

    def _lines_of(self, lines: pl.LazyFrame) -> Iterator[str]:
        for batch in lines.collect_batches(maintain_order=True):
            for line in batch[LINE]:
                self.row_lines.append(line)
                yield f"{line}\n"

    def _next(self, rows: Iterator[list[str]], first: int) -> list[str] | None:
        try:
            return next(rows, None)
        except csv.Error as error:
            if len(self.row_lines) == 1 and "field limit" in str(error):
                raise self._fault(first, f"cannot be read: {error}") from None
            raise self._quote(first) from None

    def _quote(self, first: int) -> DataError:
        last = first + len(self.row_lines) - 1
        what = f"is not closed before line {last}" if last > first else "does not enclose a complete field"
        return self._fault(first, f"a quote {what}; put quotes around the complete field and double those inside it")

    def _check_row(self, row: list[str], first: int) -> None:
        if any(NUL in line for line in self.row_lines):
            raise self._fault(first, "holds a NUL byte: is the file complete, and in UTF-8?")
        if self.quote and (self._joins_rows() or self._has_unpaired_quote()):
            raise self._quote(first)
        if len(row) <= 1 and not "".join(row).strip():
            return
        last = first + len(self.row_lines) - 1
        if len(row) < self.count:
            self.short.append((last, len(row)))
        elif len(row) > self.count and not row[self.count].strip("\r"):
            has = f"has {len(row)} fields and the first line {self.count}"
            raise self._fault(last, f"{has}: put quotes around a field that holds {self.separator!r}")

    def _joins_rows(self) -> bool:
        """Whether most lines of a row look like complete rows: then a quote is not closed."""
        complete = sum(line.count(self.separator) == self.count - 1 for line in self.row_lines)
        return min(len(self.row_lines), self.count) > 1 and 2 * complete > len(self.row_lines)

    def _has_unpaired_quote(self) -> bool:
        """Whether quotes inside fields are not in pairs: Polars would read on past the end of the line."""
        unquoted = re.sub(_enclosed(self.separator, self.quote), r"\1", "\n".join(self.row_lines))
        return unquoted.count(self.quote) % 2 == 1

    def _fault(self, line: int, text: str) -> DataError:
        self._refuse_short()
        return DataError(f"{self.path}: line {line}: {text}")

    def _refuse_short(self) -> None:
        if self.short:
            number, has = self.short[0]
            more = f" (and {len(self.short) - 1} more lines have fewer)" if len(self.short) > 1 else ""
            raise DataError(
                f"{self.path}: the first line has {self.count} fields, and so must all others, but line {number} "
                f"has {has}{more}: is the file complete?"
            )


def has_literal_quotes_in(path: str, separator: str) -> bool:
    """Whether quotes are ordinary characters: one does not enclose a field, or encloses a separator."""
    enclosed = rf'(^|{re.escape(separator)})"(?:[^"{re.escape(separator)}]|"")*"'
    line = pl.col(LINE)
    rest = line.str.replace_all(enclosed, f"${{1}}{MARK}")
    literal = rest.str.contains(QUOTE, literal=True) | rest.str.contains(f"{MARK}[^{re.escape(separator)}]")
    lines = pl.scan_lines(path, name=LINE, glob="://" in path).filter(line.str.contains(QUOTE, literal=True))
    return bool(lines.select(literal.any()).collect(engine="streaming").item())


def scan_table(
    paths: Sequence[str],
    schema: Mapping[str, pl.DataType],
    separator: str,
    quote: str,
    *,
    has_literal_quotes: bool = False,
    file: str | None = None,
) -> pl.LazyFrame:
    """The rows of tables with these columns, as texts.

    Args:
        schema: The columns in the order of the files, `EXTRA` the last.
        separator: Between the fields.
        quote: What may enclose a field; empty for nothing.
        has_literal_quotes: Whether only some quotes enclose fields.
        file: The name of a column with the path.
    """
    # An extra field shifts all after it. Polars notices only when it reads every column, so ask for one more. Columns are
    # given by position: Polars reads some names differently from `file_heads`, and treats a column it misses as empty.
    settings: dict[str, Any] = {"missing_columns": "insert", "extra_columns": "ignore"}
    settings |= {"separator": separator, "schema": dict(schema), "has_header": False, "skip_rows": 1}
    settings |= {"glob": "://" in paths[0], "include_file_paths": file}  # local globs are resolved already
    if not has_literal_quotes:
        return pl.scan_csv(list(paths), quote_char=quote or None, **settings)
    # an unclosed quote would hide the rows after it
    names = [name for name in schema if name != EXTRA]
    return pl.scan_csv(list(paths), quote_char=None, **settings).with_columns(strip_quotes(pl.col(names)))


def strip_quotes(text: pl.Expr) -> pl.Expr:
    """Texts without the quotes around a complete field, and with the doubled quotes inside it undone."""
    inner = text.str.slice(1, text.str.len_chars().cast(pl.Int64) - 2).str.replace_all('""', '"', literal=True)
    return pl.when(text.str.contains(r'(?s)^"(?:[^"]|"")*"$')).then(inner).otherwise(text).name.keep()
