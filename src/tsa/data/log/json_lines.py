"""Check JSON lines for what Polars misreads silently, and locate the line where a file stops being JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True)
class JsonFindings:
    """What a file of JSON lines holds that Polars reads differently, by row (blank lines are no rows)."""

    exact_texts: dict[str, dict[int, str]] = field(default_factory=dict)
    """By key column and row: the spelling of a float that lacks digits. Polars spells it like an integer."""
    repeated: dict[str, list[int]] = field(default_factory=dict)
    """By column: the rows in which the field occurs twice. Polars takes the first, other readers the last."""
    texts: dict[str, list[int]] = field(default_factory=dict)
    """By column: the rows in which it is a text that looks like a list or an object. Polars spells both alike."""


def check_json(path: str, names: Sequence[str], keys: Sequence[str]) -> JsonFindings:
    """Find the values of the columns `names` that Polars reads differently.

    Args:
        keys: Those of the columns in which every digit matters.

    Raises:
        DataError: If too many keys lack digits.
    """
    findings, line = JsonFindings(), pl.col(LINE)
    lines = pl.scan_lines(path, name=LINE, glob="://" in path).with_row_index("at")
    lines = lines.filter(line.str.strip_chars() != "").with_row_index("row")
    # a value may be the name of a field, and a field inside another may have the same name: parse these lines alone
    suspicious = lines.filter(_suspicious(names, keys))
    for batch in suspicious.collect_batches(maintain_order=True):
        for row, at, text in batch.iter_rows():
            _check_line(findings, row, text, frozenset(names), frozenset(keys))
            if any(len(texts) > MAX_SHORTENED for texts in findings.exact_texts.values()):
                name = max(findings.exact_texts, key=lambda name: len(findings.exact_texts[name]))
                raise DataError(
                    f"{path}: line {at + 1}: {brief(name)} must have all its digits, which floats drop; "
                    f"more than {MAX_SHORTENED:,} lines have not: export whole numbers or texts"
                )
    return findings


def _suspicious(names: Sequence[str], keys: Sequence[str]) -> pl.Expr:
    """Whether a line may hold one of the findings."""
    line = pl.col(LINE)
    spellings = [dict.fromkeys((json.dumps(name), json.dumps(name, ensure_ascii=False))) for name in names]
    tests = [pl.sum_horizontal(line.str.count_matches(text, literal=True) for text in texts) > 1 for texts in spellings]
    if names:
        tests.append(line.str.contains(rf'(?:{"|".join(map(_field, names))})\s*"\s*[\[{{]'))
    if keys:
        digits = r"(?:[0-9]{17,}|9[0-9]{15})\.[0-9]|[0-9]+(?:\.[0-9]+)?[eE]\+?(?:1[6-9]|[2-9][0-9]|[0-9]{3})"
        tests.append(line.str.contains(rf"(?:{'|'.join(map(_field, keys))})\s*-?(?:{digits})"))
    return pl.any_horizontal([*tests, pl.lit(value=False)])


def _check_line(findings: JsonFindings, row: int, text: str, names: frozenset[str], keys: frozenset[str]) -> None:
    """Add the findings of one line."""
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs, parse_float=_Float)
    except (ValueError, RecursionError):
        return  # whoever reads the file reports it
    seen: set[str] = set()
    for name, value in pairs if isinstance(pairs, _Pairs) else ():
        if name not in names:
            continue
        if name in seen and row not in findings.repeated.setdefault(name, [])[-1:]:
            findings.repeated[name].append(row)
        elif name in keys and isinstance(value, _Float) and abs(float(value)) >= 2**53:
            findings.exact_texts.setdefault(name, {})[row] = f"{float(value):.15e}"
        elif type(value) is str and value.lstrip()[:1] in ("[", "{"):
            findings.texts.setdefault(name, []).append(row)
        seen.add(name)


class _Pairs(list[tuple[str, Any]]):
    """The fields of an object, in order, repeated ones included."""


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
            if number == 1 and line.lstrip().startswith(b"["):
                return "is one JSON array; write one object per line"
            return f"line {number} is not JSON: {why_not_json(line, error)}"
        if not isinstance(value, dict):
            if number == 1 and isinstance(value, list):
                return "is one JSON array; write one object per line"
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


def why_not_json(line: bytes, error: ValueError) -> str:
    """Why a line is not JSON, and what to do."""
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


def repeated_mark(name: str) -> str:
    """The column that says in which rows the field `name` occurs twice."""
    return f"__repeated:{name}"


def text_mark(name: str) -> str:
    """The column that says in which rows `name` is a text that only looks like a list or an object."""
    return f"__text:{name}"


def marks_of(findings: JsonFindings) -> dict[str, pl.Series]:
    """By column that `repeated_mark` or `text_mark` names: the rows in which it is true."""
    rows = {repeated_mark(name): at for name, at in findings.repeated.items()}
    rows |= {text_mark(name): at for name, at in findings.texts.items()}
    return {name: pl.Series(at, dtype=pl.get_index_type()) for name, at in rows.items()}
