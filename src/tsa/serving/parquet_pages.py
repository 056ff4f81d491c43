"""Read the page headers of a Parquet column: the unpacked size, value count and encodings they declare. Unpacks nothing.

A header is a struct in Thrift's compact protocol. A header that readers could interpret in two ways is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)
KIND, UNPACKED, PACKED, DATA, INDEX, DICTIONARY, DATA_V2 = 1, 2, 3, 5, 6, 7, 8
"""Field numbers of a page header."""
VALUES, ENCODING, ENCODING_V2 = 1, 2, 4
"""Field numbers of the data-page and dictionary-page headers."""
MAX_NUMBER = 2**31
DEEPEST = 8
AFTER = 100
"""Bytes after its declared end that readers still count as part of a column: some old writers declared too few."""

Fields = dict[int, "int | Fields | None"]


class PageError(Exception):
    """The header cannot be read, or could be read in two ways."""


@dataclass
class Pages:
    """What the page headers of a column declare."""

    bytes: int = 0
    """Unpacked size."""
    values: int = 0
    encodings: set[int] = field(default_factory=set)
    over: bool = False
    """Whether `bytes` passed the limit; later pages were not read."""


def walk(body: bytes, first: int, size: int, max_bytes: int) -> Pages:
    """Read page headers until their pages unpack to more than `max_bytes` bytes.

    Args:
        first: offset of the first page in `body`.
        size: stored size of the column in bytes.

    Raises:
        PageError: a header cannot be read, or could be read in two ways.
    """
    if not (0 <= first <= len(body) and size >= 0):
        raise PageError
    pages, at, end = Pages(), first, min(len(body), first + size + AFTER)
    while at < min(end, first + size):
        reader = _ThriftReader(body, at, end)
        header = reader.struct(0)
        unpacked, packed = _size(header, UNPACKED), _size(header, PACKED)
        pages.bytes += unpacked
        at = reader.at + packed
        if at > end:
            raise PageError
        for kind, encoding in ((DATA, ENCODING), (DATA_V2, ENCODING_V2), (DICTIONARY, ENCODING)):
            about = header.get(kind)
            if isinstance(about, dict):
                pages.encodings.add(_size(about, encoding))
                pages.values += _size(about, VALUES)
        if pages.bytes > max_bytes:
            pages.over = True
            break
    return pages


def _size(fields: Fields, name: int) -> int:
    """A required non-negative number. Raises PageError."""
    value = fields.get(name)
    if not isinstance(value, int) or not 0 <= value < MAX_NUMBER:
        raise PageError
    return value


class _ThriftReader:
    """Reads Thrift's compact protocol from offset `at`."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self.at, self._end = data, at, end

    def struct(self, depth: int) -> Fields:
        """The fields by number: 32-bit integers and structs; other types are skipped and given as None."""
        if depth > DEEPEST:
            raise PageError
        fields: Fields = {}
        last = 0
        while (head := self._byte()) != STOP:
            kind, step = head & 15, head >> 4
            last = last + step if step else self._zigzag()
            if last in fields:
                raise PageError
            if kind == I32:
                fields[last] = self._zigzag()
            elif kind == STRUCT:
                fields[last] = self.struct(depth + 1)
            else:
                fields[last] = None
                self._skip(kind, depth)
        return fields

    def _skip(self, kind: int, depth: int, *, inside: bool = False) -> None:
        if depth > DEEPEST:
            raise PageError
        if kind in (TRUE, FALSE):
            self.at += inside
        elif kind == BYTE:
            self.at += 1
        elif kind in (I16, I32, I64):
            self._varint()
        elif kind == DOUBLE:
            self.at += 8
        elif kind == BINARY:
            size = self._varint()  # also moves `at`
            self.at += size
        elif kind in (LIST, SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(self._counted(count)):
                self._skip(head & 15, depth + 1, inside=True)
        elif kind == MAP:
            if count := self._varint():
                kinds = self._byte()
                for _ in range(self._counted(count)):
                    self._skip(kinds >> 4, depth + 1, inside=True)
                    self._skip(kinds & 15, depth + 1, inside=True)
        elif kind == STRUCT:
            self.struct(depth + 1)
        else:
            raise PageError
        if self.at > self._end:
            raise PageError

    def _counted(self, count: int) -> int:
        if count > self._end - self.at:  # each element takes at least one byte
            raise PageError
        return count

    def _byte(self) -> int:
        if self.at >= self._end:
            raise PageError
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) >= 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise PageError
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
