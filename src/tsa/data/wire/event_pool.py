"""Deduplicate the earlier payments that wire rows carry: each is stored once, however many rows repeat it.

Values are stored raw, in files: a categorical one as a code of the feature's texts, a number as float64. Only a time
and a key per payment are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from tsa.data.wire.hash_table import HashTable
from tsa.data.wire.row_errors import number_rule
from tsa.data.wire.tokens import Hashes, Index, Read, Tokens, mix64
from tsa.data.wire.values import Bounds

Floats = NDArray[np.float64]


def hash_multipliers(n: int, purpose: int) -> Hashes:
    """(n,) fixed odd numbers, so that a payment has the same key on every machine."""
    drawn = np.random.default_rng([n, purpose]).integers(0, 2**63, n)
    return drawn.astype(np.uint64) * np.uint64(2) + np.uint64(1)


def mixed(hashes: Hashes, mixers: Hashes | np.uint64) -> Hashes:
    """Hashes of texts, made different for each feature, so that the same text of two features has two hashes."""
    return (hashes ^ mixers) * mixers


Refused = Callable[[int, str], bool]
"""(feature index, text) -> whether the text is refused."""


class TextInterner:
    """The distinct texts of C categorical features. Each has a code that counts from 0 within its feature."""

    def __init__(self, n_features: int, refused: Refused) -> None:
        self.texts: list[list[str]] = [[] for _ in range(n_features)]
        self.bad: dict[int, set[int]] = {}
        """By feature: the codes of refused texts."""
        self._refused = refused
        self._table = HashTable()
        self._mixers = hash_multipliers(n_features, 1)

    def codes(self, tokens: Tokens, index: Index, hashes: Hashes) -> NDArray[np.int32]:
        """(e, C) codes of the pieces `index` (e, C), given their hashes."""
        keys = mixed(hashes, self._mixers).ravel()
        codes = self._table.find(keys)
        new = np.flatnonzero(codes < 0)
        if len(new):
            own, first = np.unique(keys[new], return_index=True)
            places = new[first]
            self._table.add(own, self._enter(tokens.texts(index.ravel()[places]), places % index.shape[1]))
            codes[new] = self._table.find(keys[new])
        return codes.astype(np.int32).reshape(index.shape)

    def _enter(self, texts: list[str], features: Index) -> Index:
        """Assign codes to new texts."""
        codes = np.empty(len(texts), np.int64)
        for at, (text, feature) in enumerate(zip(texts, features.tolist(), strict=True)):
            codes[at] = len(self.texts[feature])
            self.texts[feature].append(text)
            if self._refused(feature, text):
                self.bad.setdefault(feature, set()).add(int(codes[at]))
        return codes


@dataclass(frozen=True)
class Wrong:
    """A value that cannot be used: the kind and number of its feature, the value, and the rule it breaks."""

    kind: str
    feature: int
    text: str
    rule: str


class EventPool:
    """P distinct payments, in the order of first appearance."""

    def __init__(
        self,
        folder: Path,
        n_categorical: int,
        n_numerical: int,
        bounds: Bounds,
        *,
        refused: Refused = lambda feature, text: False,
        read: Read | None = None,
    ) -> None:
        """Create an empty pool.

        Args:
            refused: Which texts of categorical features cannot be used.
            read: Parser for numbers, as for `Tokens.numbers`.
        """
        self.interned, self._bounds, self._read = TextInterner(n_categorical, refused), bounds, read
        self.wrong: dict[int, Wrong] = {}
        """Payments that have a value which cannot be used."""
        self._size, self._is_wrong = 0, np.zeros(1024, bool)
        self._table = HashTable()
        self._times: list[Floats] = [np.empty(0)]
        self._keys: list[Hashes] = [np.empty(0, np.uint64)]
        self._paths = folder / "pool.categorical", folder / "pool.numerical"
        self._shapes: tuple[tuple[int, Any], ...] = (n_categorical, np.int32), (n_numerical, np.float64)
        self._files: list[BinaryIO] = []
        self._mixers = hash_multipliers(n_categorical + n_numerical, 2)

    def __enter__(self) -> Self:
        self._files = [path.open("wb") for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def __len__(self) -> int:
        return self._size

    def find_wrong(self, numbers: Index) -> Index:
        """Positions in `numbers` (e,) of payments with a value that cannot be used."""
        return np.flatnonzero(self._is_wrong[numbers]) if self.wrong else np.empty(0, np.int64)

    def time_seconds(self) -> Floats:
        """(P,)"""
        return np.concatenate(self._times)

    def keys(self) -> Hashes:
        """(P,) keys that identify the payments."""
        return np.concatenate(self._keys)

    def values(self) -> list[NDArray[Any]]:
        """Codes (P, C) int32 and numbers (P, F) float64, NaN where missing, as mapped from the files."""
        for file in self._files:
            file.flush()
        shapes = [((self._size, width), kind) for width, kind in self._shapes]
        return [
            np.memmap(path, kind, "r", shape=shape) if all(shape) else np.empty(shape, kind)
            for path, (shape, kind) in zip(self._paths, shapes, strict=True)
        ]

    def add(
        self, tokens: Tokens, categorical: Index, numerical: Index, times: Floats, missing: NDArray[np.bool_]
    ) -> Index:
        """Add the payments that are new.

        Args:
            missing: (T,) which pieces are missing markers.

        Returns:
            (e,) the numbers of the e payments, whose pieces are (e, C) and (e, F) and whose times are (e,).
        """
        pieces = np.concatenate([categorical, numerical], 1)
        hashes = tokens.hashes(pieces.ravel()).reshape(pieces.shape)
        key = (hashes * self._mixers).sum(1, dtype=np.uint64)
        key = mix64(key ^ mix64((times + 0.0).view(np.uint64)))
        pool_numbers = self._table.find(key)
        new = np.flatnonzero(pool_numbers < 0)
        if len(new):
            first = np.unique(key[new], return_index=True)[1]
            at = new[np.sort(first)]
            self._table.add(key[at], self._size + np.arange(len(at)))
            codes = self.interned.codes(tokens, categorical[at], hashes[at, : categorical.shape[1]])
            self._keep(codes, self._numbers(tokens, numerical[at], missing))
            self._note_codes(codes)
            self._times.append(times[at])
            self._keys.append(key[at])
            self._size += len(at)
            pool_numbers[new] = self._table.find(key[new])
        return pool_numbers

    def _numbers(self, tokens: Tokens, index: Index, missing: NDArray[np.bool_]) -> Floats:
        """(e, F) the numbers of the pieces. Those that cannot be used are noted."""
        flat, needed = index.ravel(), self._size + len(index)
        if needed > len(self._is_wrong):
            self._is_wrong = np.concatenate([self._is_wrong, np.zeros(needed, bool)])
        numbers = tokens.numbers(flat, missing[flat], self._read).reshape(index.shape)
        for row, feature in np.argwhere(self._bounds.bad(numbers)).tolist():
            text = tokens.texts(index[row, feature : feature + 1])[0]
            self._note(row, Wrong("numerical", feature, text, number_rule(float(numbers[row, feature]))))
        return numbers

    def _note_codes(self, codes: NDArray[np.int32]) -> None:
        """Note which new payments, given by their codes (e, C), have a refused text."""
        for feature, bad in self.interned.bad.items():
            for row in np.flatnonzero(np.isin(codes[:, feature], list(bad))).tolist():
                text = self.interned.texts[feature][codes[row, feature]]
                self._note(row, Wrong("categorical", feature, text, "not_a_number"))

    def _note(self, row: int, wrong: Wrong) -> None:
        self.wrong.setdefault(self._size + row, wrong)
        self._is_wrong[self._size + row] = True

    def _keep(self, *values: NDArray[Any]) -> None:
        for file, part in zip(self._files, values, strict=True):
            file.write(np.ascontiguousarray(part).data.cast("B") if part.size else b"")
