"""Read request bodies (JSON, JSON lines, CSV, Parquet) into rows within limits; write answers as JSON lines and CSV.

A line that cannot be read becomes a RuleViolation for its row; a body that cannot be read raises ProblemError.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tsa.data.values import RuleViolation
from tsa.serving.parquet_body import NotParquetError, TooManyRowsError, TooMuchError
from tsa.serving.parquet_process import ParquetProcess, ReaderDownError
from tsa.serving.problems import NOT_ACCEPTABLE, TOO_LARGE, UNREADABLE, WRONG_TYPE, ProblemError, shorten_value

JSON, JSON_LINES, CSV, PARQUET = "application/json", "application/jsonlines", "text/csv", "application/x-parquet"
NAMES = {
    JSON: JSON,
    JSON_LINES: JSON_LINES,
    "application/jsonl": JSON_LINES,
    "application/x-ndjson": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    CSV: CSV,
    PARQUET: PARQUET,
    "application/vnd.apache.parquet": PARQUET,
}
"""Media type -> format."""
MAX_COLUMNS = 10_000
BOM = b"\xef\xbb\xbf"
"""The UTF-8 byte order mark, which some programs write first; it is skipped."""


_reader = ParquetProcess()


@dataclass(frozen=True)
class RequestRows:
    """The rows of a body; each is a row, or the RuleViolation that it has."""

    rows: Sequence[Any]
    single: bool
    """Whether the body was one row and not a list."""


def media_type(header: str | None, allowed: Sequence[str]) -> str:
    """The format named by a Content-Type header (none: JSON). Raises ProblemError with status 415 for any other."""
    if not header:
        return JSON
    name, *parameters = header.lower().split(";")
    format_ = NAMES.get(name.strip())
    charset = [text.strip().removeprefix("charset=").strip('"') for text in parameters if "charset=" in text]
    if format_ is None or format_ not in allowed or charset not in ([], ["utf-8"], ["utf8"], ["us-ascii"]):
        detail = f"Content-Type must be one of {', '.join(allowed)}, in UTF-8"
        raise ProblemError(WRONG_TYPE, "content_type", detail, field="Content-Type", value=header)
    return format_


def negotiate(header: str | None, allowed: Sequence[str], default: str = JSON) -> str:
    """The format that an Accept header prefers. Raises ProblemError with status 406 if it accepts none."""
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
    raise ProblemError(NOT_ACCEPTABLE, "accept", detail, field="Accept", value=header)


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


def read(body: bytes, kind: str, max_list: int, max_bytes: int) -> RequestRows:
    """Read the rows of a body.

    Args:
        kind: format, one of JSON, JSON_LINES, CSV and PARQUET.
        max_list: most rows in one request.
        max_bytes: most unpacked bytes of a Parquet file.

    Raises:
        ProblemError: the body cannot be read, has no rows, or has more than `max_list`.
    """
    if kind == JSON:
        request = read_json(body)
    elif kind == JSON_LINES:
        request = RequestRows(list(_lines(body, max_list)), single=False)
    elif kind == CSV:
        request = RequestRows(list(_csv(body, max_list)), single=False)
    else:
        request = RequestRows(_parquet(body, max_list, max_bytes), single=False)
    return check_row_count(request, max_list)


def check_row_count(request: RequestRows, max_list: int) -> RequestRows:
    """Return the rows. Raises ProblemError if there are none or more than `max_list`."""
    if len(request.rows) > max_list:
        raise too_many(max_list)
    if not request.rows:
        raise ProblemError(422, "empty", "a request must hold at least one payment")
    return request


def too_many(max_list: int) -> ProblemError:
    """The error for a list that is too long."""
    return ProblemError(TOO_LARGE, "too_many", f"a request must hold at most {max_list} payments")


def read_json(body: bytes) -> RequestRows:
    """Read a JSON body: the elements of an array, or the single value."""
    try:
        value = orjson.loads(body.removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        raise not_json(body, error) from None
    return RequestRows(value, single=False) if isinstance(value, list) else RequestRows([value], single=True)


def not_json(body: bytes, error: orjson.JSONDecodeError) -> ProblemError:
    """The error for a body that is not JSON."""
    start = body[:64].decode("utf-8", "replace")
    return ProblemError(UNREADABLE, "not_json", f"the body must be JSON: {error.msg}", value=start)


def _lines(body: bytes, max_rows: int) -> Iterator[Any]:
    count = 0
    for line in body.removeprefix(BOM).split(b"\n"):
        if not line.strip():
            continue
        count += 1
        if count > max_rows:
            raise too_many(max_rows)
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            yield RuleViolation(
                "not_json", "payment", "must be a line of JSON", shorten_value(line[:64].decode("utf-8", "replace"))
            )


def _csv(body: bytes, max_rows: int) -> Iterator[Any]:
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
    except UnicodeDecodeError as error:
        detail = f"the body must be CSV in UTF-8 (byte {body[error.start]:#04x} is not)"
        raise ProblemError(UNREADABLE, "not_csv", detail) from None
    try:
        header = next(reader, [])
        if not header or len(set(header)) < len(header) or len(header) > MAX_COLUMNS or "" in header:
            detail = "the first line of a CSV body must name its columns, each once"
            raise ProblemError(UNREADABLE, "bad_header", detail, value=",".join(header[:10]))
        for count, fields in enumerate((fields for fields in reader if fields), 1):
            if count > max_rows:
                raise too_many(max_rows)
            if _joins_rows(fields, len(header)):
                raise csv.Error
            if len(fields) != len(header):
                text = f"must have {len(header)} fields, as the first line has"
                yield RuleViolation("wrong_number_of_fields", "payment", text, str(len(fields)))
            else:
                yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        what = "a quote is not closed, or does not enclose a complete field"
        if "field limit" in str(error):
            what = "a field is too long"
        detail = f"the body must be CSV, but in the row that ends at line {reader.line_num} {what}"
        raise ProblemError(UNREADABLE, "not_csv", detail) from None


def _joins_rows(fields: Sequence[str], count: int) -> bool:
    """Whether most lines of a row look like complete rows of `count` fields: then a quote has swallowed payments."""
    if count < 2 or not any("\n" in field for field in fields):
        return False
    lines = ",".join(fields).split("\n")
    return 2 * sum(line.count(",") == count - 1 for line in lines) > len(lines)


def _parquet(body: bytes, max_rows: int, max_bytes: int) -> list[dict[str, Any]]:
    try:
        return _reader.read(body, max_list=max_rows, max_columns=MAX_COLUMNS, max_bytes=max_bytes)
    except ReaderDownError:
        raise ProblemError(503, "reader_down", "Parquet bodies cannot be read at the moment") from None
    except TooManyRowsError:
        raise too_many(max_rows) from None
    except TooMuchError as error:
        raise ProblemError(TOO_LARGE, "too_large", f"the Parquet file {error}") from None
    except NotParquetError as error:
        raise ProblemError(UNREADABLE, "not_parquet", f"the body must be a Parquet file{error}") from None


def to_json_lines(documents: Sequence[Mapping[str, Any]]) -> bytes:
    """Write documents as JSON lines."""
    return b"".join(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE) for document in documents)


def to_csv(documents: Sequence[Mapping[str, Any]], columns: Sequence[str], of: Callable[[Any], str]) -> bytes:
    """Write documents as CSV with a header line. of: formats a value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([of(document.get(name)) for name in columns] for document in documents)
    return out.getvalue().encode()
