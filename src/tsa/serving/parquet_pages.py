"""The pages of a column of a Parquet file, header by header: what they say they unpack to, and hold. Nothing is unpacked.

A header is a structure in Thrift's compact protocol. What another reader could take in another way (a field twice, or of
another type) is refused. It knows no columns and no values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)
KIND, UNPACKED, PACKED, DATA, INDEX, DICTIONARY, DATA_V2 = 1, 2, 3, 5, 6, 7, 8
"""Fields of a page's header."""
VALUES, ENCODING, ENCODING_V2 = 1, 2, 4
"""Fields of what a header says of values."""
MAX_NUMBER = 2**31
DEEPEST = 8
AFTER = 100
"""Bytes beyond its end that readers take for a column's: some writers once counted too few."""

Fields = dict[int, "int | Fields | None"]


class PageError(Exception):
    """It cannot be read, or could be read in two ways."""


@dataclass
class Pages:
    """What the pages of a column say."""

    bytes: int = 0
    """Once they are unpacked."""
    values: int = 0
    encodings: set[int] = field(default_factory=set)
    over: bool = False
    """Whether there was more than was asked for; what follows was not looked at."""


def walk(body: bytes, first: int, size: int, most: int) -> Pages:
    """The pages from `first` on, `size` bytes of them as they are stored, until they unpack to more than `most`. PageError."""
    if not (0 <= first <= len(body) and size >= 0):
        raise PageError
    found, at, end = Pages(), first, min(len(body), first + size + AFTER)
    while at < min(end, first + size):
        reader = _ThriftReader(body, at, end)
        header = reader.struct(0)
        unpacked, packed = _whole(header, UNPACKED), _whole(header, PACKED)
        found.bytes += unpacked
        at = reader.at + packed
        if at > end:
            raise PageError
        for kind, encoding in ((DATA, ENCODING), (DATA_V2, ENCODING_V2), (DICTIONARY, ENCODING)):
            about = header.get(kind)
            if isinstance(about, dict):
                found.encodings.add(_whole(about, encoding))
                found.values += _whole(about, VALUES)
        if found.bytes > most:
            found.over = True
            break
    return found


def _whole(fields: Fields, name: int) -> int:
    """A number that must be there."""
    value = fields.get(name)
    if not isinstance(value, int) or not 0 <= value < MAX_NUMBER:
        raise PageError
    return value


class _ThriftReader:
    """Thrift's compact protocol, from `at` on."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self.at, self._end = data, at, end

    def struct(self, depth: int) -> Fields:
        """The fields: numbers of 32 bits and structures by their own number; others are passed over, as None."""
        if depth > DEEPEST:
            raise PageError
        found: Fields = {}
        last = 0
        while (head := self._byte()) != STOP:
            kind, step = head & 15, head >> 4
            last = last + step if step else self._zigzag()
            if last in found:
                raise PageError
            if kind == I32:
                found[last] = self._zigzag()
            elif kind == STRUCT:
                found[last] = self.struct(depth + 1)
            else:
                found[last] = None
                self._skip(kind, depth)
        return found

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
            size = self._varint()  # which moves on itself
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
        if count > self._end - self.at:  # each takes a byte at least
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
