"""Text files in other encodings than UTF-8: copied into UTF-8 before they are read."""

from __future__ import annotations

import codecs
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from tsa.config.input import UTF_8
from tsa.errors import DataError

GUESS = "cp1252"
"""The encoding of a file whose first bytes are not UTF-8: of Windows programs in Western Europe and America."""
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
PIECE = 2**20
HEAD_BYTES = 65_536


class Utf8Copy(NamedTuple):
    """A copy of a file in UTF-8: it is there as long as its folder is."""

    folder: tempfile.TemporaryDirectory[str]
    encoding: str
    """Of the file, as given or guessed."""


def in_utf8(path: str, encoding: str | None, no_text: Sequence[bytes]) -> tuple[str, Utf8Copy | None]:
    """The path of a text file in UTF-8: the file itself, or a copy of it.

    Args:
        path: A file, possibly compressed by gzip or zstd.
        encoding: As in the market file. None: detected in the first bytes.
        no_text: How files begin that are no text. They are not copied.

    Raises:
        DataError: If the file is not in this encoding.
        OSError: If it cannot be read.
    """
    if encoding == UTF_8 or (encoding is None and "://" in path):
        return path, None
    if "://" in path:
        raise DataError(f"{path}: input.encoding is for local files only (got {encoding}); copy the file here first")
    if encoding is None:
        encoding = _guessed(path, tuple(no_text))
        if encoding is None:
            return path, None
    folder = tempfile.TemporaryDirectory(prefix="tsa-utf8-")
    named = [part for part in Path(path).parts[:-1] if "=" in part]  # folders may name columns
    copy = Path(folder.name, *named, Path(path).name.removesuffix(".gz").removesuffix(".zst"))
    copy.parent.mkdir(parents=True, exist_ok=True)
    decoder = codecs.getincrementaldecoder(encoding)()
    with pa.input_stream(path) as stream, copy.open("w", encoding=UTF_8, newline="") as out:
        try:
            while piece := stream.read(PIECE):
                out.write(decoder.decode(piece))
            out.write(decoder.decode(b"", final=True))
        except UnicodeError as error:
            reason = error.reason if isinstance(error, UnicodeDecodeError) else error
            rule = f"is not in {encoding} ({reason})"
            raise DataError(f"{path}: {rule}; set input.encoding to its encoding, or save it as UTF-8") from None
    return str(copy), Utf8Copy(folder, encoding)


def _guessed(path: str, no_text: tuple[bytes, ...]) -> str | None:
    """The encoding that the first bytes of a file say; None for UTF-8 and for what is no text."""
    try:
        with pa.input_stream(path) as stream:
            head = stream.read(HEAD_BYTES)
    except OSError:
        return None  # the reader reports it
    if head.startswith(UTF_16_MARKS):
        return "utf-16"
    if b"\0" in head or head.startswith(no_text):
        return None  # no text: the reader reports it
    try:
        codecs.getincrementaldecoder(UTF_8)().decode(head)
    except UnicodeDecodeError:
        return GUESS
    return None
