"""Split many texts at a separator at once, and hash or parse the pieces as arrays.

A piece becomes a Python string only on request. Start with `split_texts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Index = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Read = Callable[[str], float]

WORD = 8
TAIL = bytes(2 * WORD)
"""Padding after the last byte, so that an eight-byte word can be read at any piece."""

MASKS = np.array([(1 << (8 * size)) - 1 for size in range(WORD + 1)], np.uint64)
"""By number of bytes: the mask of the bits they fill in a little-endian word."""

BY_LENGTH, FIRST, SECOND = (
    np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
)
HALF, THIRD = np.uint64(32), np.uint64(29)


@dataclass(frozen=True)
class Tokens:
    """The pieces of n texts, text after text, followed by m texts that are one piece each: T pieces in all."""

    data: bytes
    """All texts in UTF-8, followed by `TAIL`."""
    start: Index
    """(T,) first byte of each piece."""
    length: Index
    """(T,) number of bytes of each piece."""
    first: Index
    """(n + 1,) index of the first piece of each text; the last entry is where the uncut texts begin."""

    @property
    def _words(self) -> NDArray[np.uint64]:
        """The eight bytes from each position on, as one number."""
        return np.ndarray((len(self.data) - WORD + 1,), np.dtype("<u8"), self.data, 0, (1,))

    def hashes(self, index: Index) -> Hashes:
        """(m,) hashes of the pieces `index` (m,). Equal pieces have equal hashes; different ones collide with
        probability 2⁻⁶⁴.
        """
        start, length = self.start.take(index), self.length.take(index)
        words = self._words
        mixed = words[start]
        mixed &= MASKS.take(np.minimum(length, WORD))
        mixed += (length + 1).view(np.uint64) * BY_LENGTH
        mixed ^= mixed >> HALF
        mixed *= FIRST
        done, longer = WORD, np.flatnonzero(length > WORD)
        while len(longer):
            rest = length[longer] - done
            word = words[start[longer] + done] & MASKS.take(np.minimum(rest, WORD))
            block = mixed[longer] ^ word
            block ^= block >> HALF
            mixed[longer] = block * FIRST
            done, longer = done + WORD, longer[rest > WORD]
        return mix64(mixed)

    def are(self, texts: Iterable[str]) -> NDArray[np.bool_]:
        """(T,) whether each piece equals one of the texts."""
        equal = np.zeros(len(self.length), bool)
        for text in texts:
            mark = text.encode()
            matches = self.length == len(mark)
            if mark:
                at = np.flatnonzero(matches)
                begins = self._words[self.start[at]] & MASKS[min(len(mark), WORD)] == int.from_bytes(
                    mark[:WORD], "little"
                )
                matches[at] = begins
                at = at[begins]
                matches[at] = self.hashes(at) == _marker(text)
            equal |= matches
        return equal

    def texts(self, index: Index) -> list[str]:
        """The pieces `index` (m,) as strings."""
        spans = zip(self.start[index].tolist(), self.length[index].tolist(), strict=True)
        return [self.data[start : start + length].decode() for start, length in spans]

    def numbers(self, index: Index, missing: NDArray[np.bool_], otherwise: Read | None = None) -> NDArray[np.float64]:
        """The pieces `index` (m,) as numbers.

        Args:
            index: (m,) which pieces.
            missing: (m,) which of them are missing.
            otherwise: Parses numbers in other spellings.

        Returns:
            (m,) NaN where missing, infinite where there is no finite number.
        """
        length = np.where(missing, 0, self.length.take(index))
        offsets = np.zeros(len(index) + 1, np.int64)
        np.cumsum(length, out=offsets[1:])
        place = np.arange(offsets[-1]) + np.repeat(self.start.take(index) - offsets[:-1], length)
        packed = np.frombuffer(self.data, np.uint8).take(place)
        present = np.packbits(~missing, bitorder="little")
        buffers = [pa.py_buffer(part) for part in (present, offsets, packed)]
        read = _numbers(pa.Array.from_buffers(pa.large_string(), len(index), buffers))
        if otherwise is not None and len(unread := np.flatnonzero(np.isinf(read))):
            read[unread] = [otherwise(text) for text in self.texts(index[unread])]
        return read


def text_hashes(texts: Sequence[str]) -> Hashes:
    """(n,) the hash that each text has as a piece."""
    sizes = np.array([len(text.encode()) for text in texts], np.int64)
    ends, places = np.cumsum(sizes), np.arange(len(texts) + 1)
    return Tokens("".join(texts).encode() + TAIL, ends - sizes, sizes, places).hashes(places[:-1])


@lru_cache(maxsize=64)
def _marker(text: str) -> np.uint64:
    return np.uint64(text_hashes([text])[0])


def mix64(mixed: Hashes) -> Hashes:
    """Mix the bits in place, so that every bit depends on every other one."""
    mixed ^= mixed >> THIRD
    mixed *= SECOND
    mixed ^= mixed >> HALF
    return mixed


def _numbers(texts: Any) -> NDArray[np.float64]:
    """(m,) NaN for null, infinite for a text that is not a finite number."""
    try:
        read = pc.cast(texts, pa.float64())
        values: NDArray[np.float64] = read.to_numpy(zero_copy_only=False)
        unread = ~np.isfinite(values)
        if not unread.any():
            return values
        present = texts.is_valid().to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # it does not say which: parse them one by one
        series = pl.Series(texts)
        values = series.cast(pl.Float64, strict=False).to_numpy(writable=True)
        unread, present = ~np.isfinite(values), series.is_not_null().to_numpy()
    return np.where(unread & present, np.inf, values)


def split_texts(texts: Sequence[str], separator: str, uncut: Sequence[str] = ()) -> Tokens:
    """Split texts (n,) at a separator of at most eight bytes, as `str.split` does, and append the texts `uncut` (m,)."""
    mark = separator.encode()
    data, uncut_data = separator.join(texts).encode(), "".join(uncut).encode()
    sizes = _sizes(texts, len(data) - len(mark) * max(len(texts) - 1, 0))
    uncut_sizes = _sizes(uncut, len(uncut_data))
    at = _places(data, mark)
    if len(mark) > 1 and len(at) > 1 and int(np.diff(at).min()) < len(mark):
        start, length, first = _one_by_one(texts, separator, sizes)
    else:
        start = np.zeros(len(at) + 1, np.int64)
        np.add(at, len(mark), out=start[1:])
        length = np.append(at, len(data)) - start
        begin = np.cumsum(sizes + len(mark)) - sizes - len(mark)
        first = np.append(np.searchsorted(start, begin), len(start) if texts else 0)
    start, length = start[: first[-1]], length[: first[-1]]
    ends = np.cumsum(uncut_sizes) + len(data)
    buffer = b"".join([data, uncut_data, TAIL])
    return Tokens(buffer, np.concatenate([start, ends - uncut_sizes]), np.concatenate([length, uncut_sizes]), first)


def _sizes(texts: Sequence[str], total: int) -> Index:
    """(n,) bytes of each text, `total` in all."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    if sizes.sum() == total:  # ASCII: one byte per character
        return sizes
    return np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))


def _places(data: bytes, mark: bytes) -> Index:
    """Positions of the separator in the data. Comparing all bytes five times is faster than searching each position."""
    letters = np.frombuffer(data, np.uint8)
    stop = len(letters) - len(mark) + 1
    if stop <= 0:
        return np.empty(0, np.int64)
    is_start = letters[:stop] == mark[0]
    for offset in range(1, len(mark)):
        is_start &= letters[offset : stop + offset] == mark[offset]
    return np.flatnonzero(is_start)


def _one_by_one(texts: Sequence[str], separator: str, sizes: Index) -> tuple[Index, Index, Index]:
    """Slow path, for texts with overlapping separators: `a;S;S;b` is split once."""
    mark = len(separator.encode())
    starts, lengths, counts, begin = [], [], [0], 0
    for text, size in zip(texts, sizes.tolist(), strict=True):
        pieces = [len(piece.encode()) for piece in text.split(separator)]
        counts.append(len(pieces))
        place = begin
        for piece in pieces:
            starts.append(place)
            lengths.append(piece)
            place += piece + mark
        begin += size + mark
    return np.array(starts, np.int64), np.array(lengths, np.int64), np.cumsum(counts)
