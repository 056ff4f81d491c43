"""Check JSON lines for what Polars misreads silently, and locate the line where a file stops being JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence

import orjson
import polars as pl
import pyarrow as pa

from tsa.data.log.file_heads import LINE
from tsa.errors import DataError
from tsa.text import brief

PEEK_ROWS = 1000
_NO_VALUE = re.compile(rb"(?<!\w)(NaN|-?Infinity)(?!\w)")


def fields_of(path: str, columns: Sequence[str]) -> list[str]:
    """The fields of the first rows, and those of `columns` that occur later: JSON rows may omit fields."""
    lines = pl.scan_lines(path, name=LINE, glob="://" in path)
    names: dict[str, None] = {}
    for at, text in enumerate(lines.head(PEEK_ROWS).collect()[LINE], 1):
        try:
            row = orjson.loads(text) if text.strip() else {}
        except ValueError:
            row = None
        if isinstance(row, dict):
            names.update(dict.fromkeys(row))
        else:
            raise DataError(f"{path}: {json_fault(path) or f'line {at} must hold an object of fields'}") from None
    occurs = {name: pl.col(LINE).str.contains(_field(name)).any() for name in columns if name not in names}
    if occurs:
        late = lines.select(**occurs).collect(engine="streaming").row(0, named=True)
        names.update(dict.fromkeys(name for name, there in late.items() if there))
    return list(names)


def _field(name: str) -> str:
    return rf"(?:{re.escape(json.dumps(name))}|{re.escape(json.dumps(name, ensure_ascii=False))})\s*:"


def check_json(path: str, names: Sequence[str], keys: Sequence[str]) -> None:
    """Check that no field repeats in a line, and that keys have all their digits.

    Of repeated fields Polars uses the first, other readers the last; and Polars converts floats to integers.

    Args:
        names: Fields that must not repeat.
        keys: Fields that must not be floats without all digits.

    Raises:
        DataError: For the first line that breaks this.
    """
    line = pl.col(LINE)
    spellings = {name: dict.fromkeys((json.dumps(name), json.dumps(name, ensure_ascii=False))) for name in names}
    twice = [
        pl.sum_horizontal(line.str.count_matches(text, literal=True) for text in texts) > 1
        for texts in spellings.values()
    ]
    suspicious = pl.any_horizontal([*twice, pl.lit(value=False)])
    if keys:
        spelled = "|".join(map(_field, keys))
        digits = r"(?:[0-9]{17,}|9[0-9]{15})\.[0-9]|[0-9]+(?:\.[0-9]+)?[eE]\+?(?:1[6-9]|[2-9][0-9]|[0-9]{3})"
        suspicious |= line.str.contains(rf"(?:{spelled})\s*-?(?:{digits})")
    lines = pl.scan_lines(path, name=LINE, glob="://" in path).with_row_index("at")
    # a value may equal a field name, and a nested field may have the same name: parse only these lines
    for at, text in lines.filter(suspicious).collect(engine="streaming").iter_rows():
        _check_line(path, at + 1, text, frozenset(names), frozenset(keys))


def _check_line(path: str, number: int, text: str, names: frozenset[str], keys: frozenset[str]) -> None:
    try:
        pairs = json.loads(text, object_pairs_hook=list, parse_float=_Float)
    except ValueError:
        return  # the reader reports it
    seen: set[str] = set()
    for pair in pairs if isinstance(pairs, list) else ():
        name, value = pair if isinstance(pair, tuple) else ("", None)
        if name in names and name in seen:
            raise DataError(f"{path}: line {number}: field {brief(name)!r} occurs twice; remove one")
        if name in keys and isinstance(value, _Float) and abs(float(value)) >= 2**53:
            raise DataError(
                f"{path}: line {number}: {brief(name)} must have all its digits, which floats drop; "
                "export whole numbers or texts"
            )
        seen.add(name)


class _Float(str):
    """The text of a number with a fraction or an exponent."""

    __slots__ = ()


def json_fault(path: str) -> str | None:
    """What is wrong with the first line that is not a JSON object, and where; None if all lines are."""
    number = 0
    with io.BufferedReader(pa.input_stream(path)) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                return f"line {number} is not JSON: {_why(line, error)}"
            if not isinstance(value, dict):
                kind = {"list": "a list", "str": "a text"}.get(type(value).__name__, "a single value")
                return f"line {number} must hold an object of fields (got {kind}); write one object per line"
    return None


def _why(line: bytes, error: ValueError) -> str:
    if match := _NO_VALUE.search(line):
        return f"{match[0].decode()} is not a JSON value; write null"
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {line[wrong.start]:#04x} is not UTF-8; save the file as UTF-8"
    if not line.endswith(b"\n"):
        return "the line is cut off; copy the file again, or write one object per line"
    return f"{brief(error)}; write one object per line"
