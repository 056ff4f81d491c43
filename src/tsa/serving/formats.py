"""Bodies of requests, as rows: JSON, JSON lines, CSV and Parquet, each within bounds. And answers as JSON lines and CSV.

It does not know what a row's fields mean; a line that cannot be read is a problem of its own, a body that cannot be is refused.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from tsa.data.payments import Problem
from tsa.serving.problems import NOT_ACCEPTABLE, TOO_LARGE, UNREADABLE, WRONG_TYPE, RefusedError, shown

JSON, LINES, CSV, PARQUET = "application/json", "application/jsonlines", "text/csv", "application/x-parquet"
NAMES = {
    JSON: JSON,
    LINES: LINES,
    "application/jsonl": LINES,
    "application/x-ndjson": LINES,
    "application/x-jsonlines": LINES,
    CSV: CSV,
    PARQUET: PARQUET,
    "application/vnd.apache.parquet": PARQUET,
}
"""By media type: the format."""
MOST_COLUMNS = 10_000
ENCODINGS = {
    *("PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"),
    *("DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "BYTE_STREAM_SPLIT"),
}
"""Of Parquet pages: those that give a text no more room than it takes."""
WIDEST = 16
"""Bytes of a value that is no text."""
INFLATION = 16
"""A Parquet file may hold so many times `max_bytes` once it is unpacked."""


@dataclass(frozen=True)
class Rows:
    """What stood in a body: a row, or what is wrong with it, each; `single` where it was no list of them."""

    rows: Sequence[Any]
    single: bool


def media_type(header: str | None, allowed: Sequence[str]) -> str:
    """The format that a Content-Type names; nothing is JSON. RefusedError with 415 for any other."""
    if not header:
        return JSON
    name, *parameters = header.lower().split(";")
    found = NAMES.get(name.strip())
    charset = [text.strip().removeprefix("charset=").strip('"') for text in parameters if "charset=" in text]
    if found is None or found not in allowed or charset not in ([], ["utf-8"], ["utf8"], ["us-ascii"]):
        detail = f"Content-Type must be one of {', '.join(allowed)}, in UTF-8"
        raise RefusedError(WRONG_TYPE, "content_type", detail, field="Content-Type", value=header)
    return found


def accepted(header: str | None, allowed: Sequence[str], default: str = JSON) -> str:
    """The format that an Accept header likes best. RefusedError with 406 where it likes none."""
    if not header or header.strip() == "*/*":
        return default
    choices = sorted(_choices(header), key=lambda choice: -choice[1])
    for name, quality in choices:
        if quality > 0 and name in ("*/*", "application/*") and (name == "*/*" or default.startswith("application/")):
            return default
        if quality > 0 and NAMES.get(name) in allowed:
            return NAMES[name]
        if quality > 0 and name == "text/*" and CSV in allowed:
            return CSV
    detail = f"Accept must allow one of {', '.join(allowed)}"
    raise RefusedError(NOT_ACCEPTABLE, "accept", detail, field="Accept", value=header)


def _choices(header: str) -> Iterator[tuple[str, float]]:
    for part in header.lower().split(","):
        name, *parameters = part.split(";")
        quality = 1.0
        for text in parameters:
            if text.strip().startswith("q="):
                try:
                    quality = float(text.strip()[2:])
                except ValueError:
                    quality = 0.0
        yield name.strip(), quality


def read(body: bytes, kind: str, max_list: int, max_bytes: int) -> Rows:
    """The rows of a body. RefusedError for one that cannot be read, or holds none, or more than `max_list`."""
    if kind == JSON:
        found = read_json(body)
    elif kind == LINES:
        found = Rows(list(_lines(body, max_list)), single=False)
    elif kind == CSV:
        found = Rows(list(_csv(body, max_list)), single=False)
    else:
        found = Rows(_parquet(body, max_list, max_bytes), single=False)
    return bounded(found, max_list)


def bounded(found: Rows, max_list: int) -> Rows:
    """The rows, if there are any and not too many. RefusedError."""
    if len(found.rows) > max_list:
        raise too_many(max_list)
    if not found.rows:
        raise RefusedError(422, "empty", "a request must hold at least one payment")
    return found


def too_many(max_list: int) -> RefusedError:
    """The refusal of a list that is too long."""
    return RefusedError(TOO_LARGE, "too_many", f"a request must hold at most {max_list} payments")


def read_json(body: bytes) -> Rows:
    """A JSON value: an array's elements, or the value itself."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json(body, error) from None
    return Rows(value, single=False) if isinstance(value, list) else Rows([value], single=True)


def not_json(body: bytes, error: orjson.JSONDecodeError) -> RefusedError:
    """The refusal of a body that is no JSON."""
    start = body[:64].decode("utf-8", "replace")
    return RefusedError(UNREADABLE, "not_json", f"the body must be JSON: {error.msg}", value=start)


def _lines(body: bytes, most: int) -> Iterator[Any]:
    count = 0
    for line in body.split(b"\n"):
        if not line.strip():
            continue
        count += 1
        if count > most:
            raise too_many(most)
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            yield Problem("not_json", "payment", "must be a line of JSON", shown(line[:64].decode("utf-8", "replace")))


def _csv(body: bytes, most: int) -> Iterator[Any]:
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        header = next(reader, [])
        if not header or len(set(header)) < len(header) or len(header) > MOST_COLUMNS or "" in header:
            detail = "the first line of a CSV body must name its columns, each once"
            raise RefusedError(UNREADABLE, "bad_header", detail, value=",".join(header[:10]))
        for count, fields in enumerate((fields for fields in reader if fields), 1):
            if count > most:
                raise too_many(most)
            if len(fields) != len(header):
                text = f"must have {len(header)} fields, as the first line has"
                yield Problem("wrong_number_of_fields", "payment", text, str(len(fields)))
            else:
                yield dict(zip(header, fields, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise RefusedError(UNREADABLE, "not_csv", f"the body must be CSV in UTF-8: {type(error).__name__}") from None


def _parquet(body: bytes, most: int, max_bytes: int) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(pa.BufferReader(body))
        if about.num_rows > most:
            raise too_many(most)
        if about.num_columns > MOST_COLUMNS or _unpacked_at_most(about) > INFLATION * max_bytes:
            raise _too_large()
        texts = [about.schema.column(at).path for at in range(about.num_columns) if _is_text(about, at)]
        # texts stay in their dictionaries until it is known how much they are when each row has its own
        source, options = pa.BufferReader(body), {"read_dictionary": texts, "page_checksum_verification": True}
        table = pq.ParquetFile(source, **options).read(use_threads=False)
        if table.num_rows > most:
            raise too_many(most)
        if sum(_size(chunk) for column in table.columns for chunk in column.chunks) > INFLATION * max_bytes:
            raise _too_large()
        return [{name: _plain(value) for name, value in row.items()} for row in _in_microseconds(table).to_pylist()]
    except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError, MemoryError):
        raise RefusedError(UNREADABLE, "not_parquet", "the body must be a Parquet file") from None


def _too_large() -> RefusedError:
    return RefusedError(TOO_LARGE, "too_large", "the Parquet file holds too much once it is unpacked")


def _is_text(about: Any, column: int) -> bool:
    return bool(about.schema.column(column).physical_type == "BYTE_ARRAY")


def _unpacked_at_most(about: Any) -> int:
    """Bytes that a file's columns take, texts in their dictionaries, by what it says of itself: a page of a few bytes can
    stand for millions of equal values. RefusedError for texts that share beginnings: nothing it says bounds these."""
    total = 0
    for group in map(about.row_group, range(about.num_row_groups)):
        total += group.total_byte_size
        for at in range(about.num_columns):
            chunk, column = group.column(at), about.schema.column(at)
            if not set(chunk.encodings) <= ENCODINGS:
                raise RefusedError(UNREADABLE, "not_parquet", f"pages must be encoded as one of {sorted(ENCODINGS)}")
            total += chunk.num_values * max(WIDEST, column.length or 0)
    return total


def _size(array: Any) -> int:
    """Bytes of an array once nothing in it is shared."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary.cast(pa.large_binary()))
        return int(array.nbytes + (pc.sum(lengths.take(array.indices)).as_py() or 0))
    if pa.types.is_nested(array.type):
        return (
            sum(_size(inner) for inner in array.flatten()) if pa.types.is_struct(array.type) else _size(array.flatten())
        )
    return int(array.nbytes)


def _in_microseconds(table: Any) -> Any:
    import pyarrow as pa

    fields = []
    for field in table.schema:
        finer = pa.types.is_timestamp(field.type) and field.type.unit == "ns"
        fields.append(field.with_type(pa.timestamp("us", field.type.tz)) if finer else field)
    return table.cast(pa.schema(fields), safe=False)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def lines_of(documents: Sequence[Mapping[str, Any]]) -> bytes:
    """JSON lines."""
    return b"".join(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE) for document in documents)


def csv_of(documents: Sequence[Mapping[str, Any]], columns: Sequence[str], of: Callable[[Any], str]) -> bytes:
    """CSV with a line that names its columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([of(document.get(name)) for name in columns] for document in documents)
    return out.getvalue().encode()
