"""Lines of text tables: whether each has as many fields as the first. It knows separators and quotes, not columns."""

from __future__ import annotations

import polars as pl

from tsa.errors import DataError

LINE, NUMBER = "line", "number"
QUOTE = '"'


def refuse_short(path: str, separator: str, count: int) -> None:
    """DataError where a line of the table has fewer than `count` fields: Polars would read its last ones as missing.

    Empty lines are left to the rules for rows, and rows that go over several lines, in quotes, are not counted.
    """
    lines = pl.scan_lines(path, name=LINE, row_index_name=NUMBER, row_index_offset=1, glob="://" in path)
    line, quoted = pl.col(LINE), pl.col(LINE).str.contains(QUOTE, literal=True)
    # quotes cost time and are rare; what they hold must not count
    bare = pl.when(quoted).then(line.str.replace_all('"[^"]*"', "")).otherwise(line)
    fields = bare.str.count_matches(separator, literal=True) + 1
    short = lines.filter(line.str.strip_chars("\r") != "").filter(fields < count)
    found = short.select(NUMBER, fields=fields).collect(engine="streaming")
    if len(found):
        found = found.filter(_whole(lines, found[NUMBER]))
    if len(found):
        number, has = found.row(0)
        raise DataError(
            f"{path}: the first line has {count} fields, and so must all others, however: line {number} has {has} "
            f"(and {len(found) - 1} more lines have fewer): is the file whole?"
        )


def _whole(lines: pl.LazyFrame, numbers: pl.Series) -> pl.Series:
    """(m,) whether the lines of these numbers are rows of their own: no quotes are open where they begin and end."""
    marks = pl.col(LINE).str.count_matches(QUOTE, literal=True)
    after = lines.select(NUMBER, open=marks.cum_sum() % 2 == 1, odd=marks % 2 == 1)
    seen = after.filter(pl.col(NUMBER).is_in(numbers.implode())).collect()
    return ~seen["open"] & ~seen["odd"]
