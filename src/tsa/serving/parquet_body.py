"""Read Parquet bodies within a memory budget; run in a separate process (`tsa.serving.parquet_process`).

The sizes in a footer may be false, so the page headers are read first: the decompressor is limited to the size that they
declare. A file is read only if all its pages together are within the budget.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tsa.serving.parquet_pages import PageError, Pages, walk

ENCODINGS = {
    "PLAIN": 0,
    "PLAIN_DICTIONARY": 2,
    "RLE": 3,
    "BIT_PACKED": 4,
    "DELTA_BINARY_PACKED": 5,
    "DELTA_LENGTH_BYTE_ARRAY": 6,
    "RLE_DICTIONARY": 8,
    "BYTE_STREAM_SPLIT": 9,
}
"""Allowed page encodings: those that cannot make a text larger. With DELTA_BYTE_ARRAY texts share prefixes."""
WIDEST = 16
"""Largest number of bytes of a value that is not a text."""
INFLATION = 16
"""An unpacked file may have this many times `max_bytes`."""
MAX_CELLS = 2**20
"""Largest number of values of all rows and columns together: each becomes a Python object."""
LIMITS = {"thrift_string_size_limit": 16 * 2**20, "thrift_container_size_limit": 65_536}
"""Limits of pyarrow for a footer."""


class TooMuchError(Exception):
    """The file has too much data."""


class TooManyRowsError(Exception):
    """The file has more payments than a request may have."""


class NotParquetError(Exception):
    """The file cannot be read."""


def read_table(body: bytes, *, max_list: int, max_columns: int, max_bytes: int) -> bytes:
    """Read the table of a file, as an Arrow stream.

    Raises:
        TooManyRowsError: more than `max_list` rows.
        TooMuchError: more than `max_columns` columns, or too large when unpacked.
        NotParquetError: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    budget = INFLATION * max_bytes
    try:
        about = pq.ParquetFile(pa.BufferReader(body), **LIMITS).metadata
        _refuse_large(about, max_list, max_columns)
        _refuse_unpacked(body, about, budget)
        texts = [about.schema.column(at).path for at in range(about.num_columns) if _is_text(about, at)]
        # keep texts dictionary-encoded until their expanded size is known
        source, options = pa.BufferReader(body), {"read_dictionary": texts, "page_checksum_verification": True}
        table = pq.ParquetFile(source, **options, **LIMITS).read(use_threads=False)
        if table.num_rows > max_list:
            raise TooManyRowsError
        if sum(_size(chunk) for column in table.columns for chunk in column.chunks) > budget:
            raise TooMuchError("holds too much once it is unpacked")
        result = _in_microseconds(table)
        result.validate(full=True)
        with pa.BufferOutputStream() as out, pa.ipc.new_stream(out, result.schema) as stream:
            stream.write_table(result)
        return bytes(out.getvalue())
    except (pa.ArrowException, PageError, OSError, ValueError, OverflowError, TypeError, MemoryError):
        raise NotParquetError from None


def rows_of(table: bytes) -> list[dict[str, Any]]:
    """The rows of a table from `read_table`."""
    import pyarrow as pa

    with pa.ipc.open_stream(table) as stream:
        rows = stream.read_all()
    return [{name: _plain(value) for name, value in row.items()} for row in rows.to_pylist()]


def _refuse_large(about: Any, max_list: int, max_columns: int) -> None:
    """Check the footer. Row groups are checked one by one, because readers allocate memory for what each declares."""
    groups = [about.row_group(at) for at in range(about.num_row_groups)]
    if max([about.num_rows, sum(group.num_rows for group in groups), *(group.num_rows for group in groups)]) > max_list:
        raise TooManyRowsError
    if about.num_columns > max_columns:
        raise TooMuchError(f"must have at most {max_columns} columns")
    if about.num_columns * about.num_rows > MAX_CELLS:
        raise TooMuchError(f"must have at most {MAX_CELLS} values")


def _refuse_unpacked(body: bytes, about: Any, budget: int) -> None:
    """Raise TooMuchError if the pages unpack to more than the budget, whatever the footer declares."""
    left = budget
    for group in map(about.row_group, range(about.num_row_groups)):
        for at in range(about.num_columns):
            chunk, column = group.column(at), about.schema.column(at)
            first = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < first:
                first = chunk.dictionary_page_offset
            pages: Pages = walk(body, first, chunk.total_compressed_size, left)
            if not pages.encodings <= set(ENCODINGS.values()):
                raise NotParquetError(f", its pages encoded as one of {', '.join(ENCODINGS)}")
            values = max(chunk.num_values, pages.values)
            left -= pages.bytes + values * max(WIDEST, column.length or 0)
            if left < 0 or pages.over:
                raise TooMuchError("holds too much once it is unpacked")


def _is_text(about: Any, column: int) -> bool:
    return bool(about.schema.column(column).physical_type == "BYTE_ARRAY")


def _size(array: Any) -> int:
    """Bytes of an array with its dictionaries expanded."""
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
