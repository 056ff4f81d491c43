"""Check JSON lines for what Polars misreads silently, and locate the line where a file stops being JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence

import orjson
import polars as pl
import pyarrow as pa

from tsa.data.log.file_heads import BOM, LINE, MAX_DIGITS
from tsa.errors import DataError
from tsa.text import brief

PEEK_ROWS = 1000
MAX_SHORTENED = 10_000
"""The most rows with a shortened key that are listed; a file with more is refused."""
_PLACE = re.compile(r": line \d+ column \d+ \(char (\d+)\)$")
_TOO_LONG = re.compile(rb'(?:"(?:[^"\\]|\\.)*"\s*:|[\[,])\s*-?[0-9]{' + str(MAX_DIGITS + 1).encode() + rb",}")
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
        names.update(dict.fromkeys(name for name, occurs_later in late.items() if occurs_later))
    return list(names)


def _field(name: str) -> str:
    return rf"(?:{re.escape(json.dumps(name))}|{re.escape(json.dumps(name, ensure_ascii=False))})\s*:"


def check_json(path: str, names: Sequence[str], keys: Sequence[str]) -> dict[str, dict[int, str]]:
    """Check for repeated fields, and for keys whose digits a float dropped. Polars reports neither.

    Returns:
        By field of `keys` and row number, the text of each float that lacks digits.

    Raises:
        DataError: For the first line in which a field of `names` occurs twice: readers differ in which one they use.
    """
    shortened: dict[str, dict[int, str]] = {}
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
    lines = lines.filter(line.str.strip_chars() != "").with_row_index("row")
    # a value may equal the name of a field, and a nested field may have the same name: parse these lines
    for row, at, text in lines.filter(suspicious).collect(engine="streaming").iter_rows():
        for name, value in _check_line(path, at + 1, text, frozenset(names), frozenset(keys)).items():
            shortened.setdefault(name, {})[row] = f"{value:.15e}"
            if len(shortened[name]) > MAX_SHORTENED:
                raise DataError(
                    f"{path}: line {at + 1}: {brief(name)} must have all its digits, which floats drop; "
                    f"more than {MAX_SHORTENED:,} lines have not: export whole numbers or texts"
                )
    return shortened


def _check_line(path: str, number: int, text: str, names: frozenset[str], keys: frozenset[str]) -> dict[str, float]:
    """The floats among `keys` that lack digits."""
    try:
        pairs = json.loads(text, object_pairs_hook=list, parse_float=_Float)
    except ValueError:
        return {}  # the reader reports it
    seen: set[str] = set()
    shortened: dict[str, float] = {}
    for pair in pairs if isinstance(pairs, list) else ():
        name, value = pair if isinstance(pair, tuple) else ("", None)
        if name in names and name in seen:
            raise DataError(f"{path}: line {number}: field {brief(name)!r} occurs twice; remove one")
        if name in keys and isinstance(value, _Float) and abs(float(value)) >= 2**53:
            shortened[name] = float(value)
        seen.add(name)
    return shortened


class _Float(str):
    """The text of a number with a fraction or an exponent."""

    __slots__ = ()


def json_fault(path: str) -> str | None:
    """The first line that is not a JSON object and why; None if there is none."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line.rstrip(b"\r\n"))
        except orjson.JSONDecodeError as error:
            return f"line {number} is not JSON: {_why(line, error)}"
        if not isinstance(value, dict):
            kind = {"list": "a list", "str": "a text"}.get(type(value).__name__, "a single value")
            return f"line {number} must hold an object of fields (got {kind}); write one object per line"
        if _TOO_LONG.search(line):
            return f"line {number} holds a number of more than {MAX_DIGITS} digits; write it as a text"
    return None


def _lines(path: str) -> Iterator[bytes]:
    """The lines of a file or a URL, with their ends."""
    if "://" in path:
        for batch in pl.scan_lines(path, name=LINE).collect_batches(maintain_order=True):
            yield from (f"{line}\n".encode() for line in batch[LINE])
        return
    with io.BufferedReader(pa.input_stream(path)) as stream:
        yield from stream


def _why(line: bytes, error: ValueError) -> str:
    if line.startswith(BOM.encode()):
        return "it begins with a byte order mark; save the file as UTF-8 without one"
    if match := _NO_VALUE.search(line):
        return f"{match[0].decode()} is no JSON value; write null"
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {line[wrong.start]:#04x} is not UTF-8; save the file as UTF-8"
    if not line.endswith(b"\n") or "unexpected end" in str(error):
        return "the line is cut off; copy the file again, or write one object per line"
    reason = brief(_PLACE.sub(lambda place: f" at character {int(place[1]) + 1}", str(error)))
    return f"{reason}; write one object per line"
