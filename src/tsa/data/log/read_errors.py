"""Explain why a file cannot be read, in one sentence, with file and line where known and without parser internals.

The file is read a second time, after the first reading has failed.
"""

from __future__ import annotations

import io
import os

import polars as pl
import pyarrow as pa

from tsa.data.log.json_lines import json_fault
from tsa.errors import DataError
from tsa.text import brief

CUT_OFF = (
    "unexpected end of file",
    "Truncated compressed",
    "Compressed file ended",
    "unexpected EOF",
    "corrupt deflate",
    "zlib inflate",
)


def why_unreadable(path: str, kind: str, error: Exception, *, is_pseudonymized: bool = False) -> DataError:
    """The error to show for an error of Polars or the system.

    Args:
        is_pseudonymized: The message must not quote the contents of the file.
    """
    if kind == "json" or (kind != "parquet" and "://" not in path):
        try:
            fault = json_fault(path) if kind == "json" else None if kind in ("parquet", "table") else _no_utf8(path)
        except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as wrong:
            error, fault = wrong, None
        if fault is not None:
            return DataError(f"{path}: {fault}")
    if any(sign in str(error) for sign in CUT_OFF):
        return DataError(f"{path}: is compressed and ends too early; copy it again")
    if isinstance(error, OSError) and error.errno:
        return DataError(f"{path}: cannot be read: {os.strerror(error.errno)}")
    if "utf8" in str(error) or "utf-8" in str(error):
        return DataError(f"{path}: is not in UTF-8; save it as UTF-8")
    reason = type(error).__name__ if is_pseudonymized else brief(error)
    return DataError(f"{path}: cannot be read as {kind}: {reason}")


def _no_utf8(path: str) -> str | None:
    with io.BufferedReader(pa.input_stream(path)) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError as wrong:
                return f"line {number}: byte {line[wrong.start]:#04x} is not UTF-8; set input.encoding, or save the file as UTF-8"
    return None


def fault_of(frame: pl.LazyFrame) -> Exception | None:
    """The error of Polars or the system when these columns are read to the end; None if they can be read."""
    try:
        frame.select(pl.all().null_count()).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        return error
    return None
