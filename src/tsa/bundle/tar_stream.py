"""Read the regular files of a tar stream, one header at a time, with limits on the unpacked size and on headers.

Reads the output of `tar` and `tarfile`, with pax headers and long names. Links, devices, sparse files and paths that
leave the archive are rejected. (`tarfile` would read names of any length into memory.)
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator
from typing import BinaryIO

from tsa.errors import BundleError
from tsa.files.platform_files import is_marker

PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
MAX_EXTENSION, MAX_HEADERS = 2**20, 10_000
"""Maximum bytes of an extension header, and maximum number of headers."""
MAX_AFTER = 2**20
"""Maximum bytes of zeros after the last file; tar writes at most 10 kB."""
MAX_TIMES, FREE_BYTES = 100, 256 * 2**20
"""Maximum ratio of unpacked to packed size, and the size that is always allowed. Weights hardly compress, JSON to a tenth."""
PIECE = 2**20


class Tape:
    """Iterates over (folder, name, size) of the regular files. `read` gives the bytes of the current one."""

    def __init__(self, unpacked: BinaryIO, packed_size: int, where: str, files: Collection[str] = ()) -> None:
        """files: names that folders must not have."""
        self._in, self._where, self._files = unpacked, where, files
        self._budget = max(FREE_BYTES, MAX_TIMES * packed_size)
        self._left = self._gap = 0
        """Skip the unread bytes of the member and its padding."""

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        """Folder, name, size. Raises BundleError for anything but a regular file, a path outside, or too much data."""
        name: str | None = None
        size: int | None = None
        extension = ""
        for _ in range(MAX_HEADERS):
            member = self._header()
            if member is None:
                if extension:
                    raise self._misplaced(extension)
                self._refuse_more()
                return
            if member.type in (PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK):
                data, extension = self._extension(member), member.name if member.type != PAX_GLOBAL else ""
                if member.type == LONG_NAME:
                    name = data.rstrip(b"\0").decode("utf-8", "replace")
                elif member.type == PAX:
                    records = dict(_records(data, self._where))
                    if any(key.startswith("GNU.sparse") for key in records):
                        raise self._misplaced(member.name)
                    name, size = records.get("path", name), _integer(records.get("size"), size)
                continue
            path, own = name if name is not None else member.name, member.size if size is None else size
            name, size, extension = None, None, ""
            plain = member.type in PLAIN and not (member.type == tarfile.AREGTYPE and path.endswith("/"))
            self._left, self._gap = (own, -own % tarfile.BLOCKSIZE) if plain else (0, 0)
            if own < 0:
                raise self._misplaced(path)
            folder, last = self._split(path)
            if any(is_marker(part) for part in path.split("/")):
                if member.type in PLAIN or member.isdir():
                    continue
            elif member.isdir() and not folder and last not in self._files:
                continue
            elif plain and last:
                yield folder, last, own
                continue
            raise self._misplaced(path)
        raise BundleError(f"{self._where} must have at most {MAX_HEADERS:,} entries")

    def read(self, size: int) -> bytes:
        """The next bytes of the current member."""
        self._left -= size
        return self._take(size)

    def _header(self) -> tarfile.TarInfo | None:
        """The next header; None at the end."""
        while self._left:
            self._left -= len(self._take(min(PIECE, self._left)))
        self._take(self._gap)
        self._gap = 0
        block = self._take(tarfile.BLOCKSIZE)
        return tarfile.TarInfo.frombuf(block, "utf-8", "replace") if any(block) else None

    def _extension(self, member: tarfile.TarInfo) -> bytes:
        if not 0 <= member.size <= MAX_EXTENSION:
            raise self._misplaced(member.name)
        data = self._take(member.size)
        self._take(-member.size % tarfile.BLOCKSIZE)
        return data

    def _split(self, path: str) -> tuple[str, str]:
        """Folder and name of an entry at the top or in one folder; both are empty for the top itself."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/") or ".." in parts or "\\" in path:
            raise self._misplaced(path)
        if len(parts) > 2:
            raise BundleError(f"{self._where}/{_printable(path)} does not belong to the bundle")
        return "/".join(parts[:-1]), parts[-1] if parts else ""

    def _take(self, size: int) -> bytes:
        self._budget -= size
        if self._budget < 0:
            raise self._too_much("")
        data = self._in.read(size)
        if len(data) < size:
            raise EOFError("it ends too early")
        return data

    def _refuse_more(self) -> None:
        rest = self._in.read(MAX_AFTER + 1)
        if len(rest) > MAX_AFTER or rest.strip(b"\0"):
            raise BundleError(f"{self._where} must end after its last file (got more data)")

    def _misplaced(self, path: str) -> BundleError:
        return BundleError(
            f"{self._where}/{_printable(path)} must be a regular file, at the top of the archive or in one folder"
        )

    def _too_much(self, path: str) -> BundleError:
        limit = f"{MAX_TIMES} times its size, or {FREE_BYTES:,} bytes"
        where = f"{self._where}/{_printable(path)}" if path else self._where
        return BundleError(f"{where} must not unpack to more than {limit}; this is not a bundle")


def _records(data: bytes, where: str) -> Iterator[tuple[str, str]]:
    """The records of a pax header: `LENGTH KEY=VALUE\\n`."""
    while data.strip(b"\0"):
        head, _, _ = data.partition(b" ")
        length = int(head) if head.isdigit() and len(head) < 8 else 0
        key, separator, value = data[len(head) + 1 : length - 1].partition(b"=")
        if not separator or length > len(data) or data[length - 1 : length] != b"\n":
            raise BundleError(f"{where} cannot be read: a pax header is broken")
        yield key.decode("utf-8", "replace"), value.decode("utf-8", "replace")
        data = data[length:]


def _integer(text: str | None, otherwise: int | None) -> int | None:
    if text is None:
        return otherwise
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError("a pax header has an invalid size")
    return int(text)


def _printable(path: str) -> str:
    return path if path.isprintable() else ascii(path)
