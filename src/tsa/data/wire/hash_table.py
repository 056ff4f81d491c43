"""A hash table of 63-bit keys with vectorised lookup and insertion.

Open addressing in NumPy: a key is in the slot given by its upper bits, or in one of the next. Keys must be well
mixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Values = NDArray[np.int64]

USED = np.uint64(1)
"""The lowest bit marks a used slot, so it is no longer part of the key."""

MIN_BITS = 6


class HashTable:
    """Maps keys to non-negative integers. More `slots_per_key` (after growing) means fewer probes per lookup."""

    def __init__(self, keys: Keys | None = None, values: Values | None = None, slots_per_key: int = 4) -> None:
        self._n, self._slots_per_key = 0, slots_per_key
        self._allocate(MIN_BITS)
        if keys is not None and values is not None:
            self.add(keys, values)

    def __len__(self) -> int:
        return self._n

    def _allocate(self, bits: int) -> None:
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._keys = np.zeros(1 << bits, np.uint64)
        self._values = np.full(1 << bits, -1, np.int64)

    def find(self, keys: Keys) -> Values:
        """(n,) the value of each key (n,); -1 for a key that is not in the table."""
        keys = keys | USED
        slot = (keys >> self._shift).view(np.int64)
        stored = self._keys.take(slot)
        values = self._values.take(slot)
        missed = np.flatnonzero(stored != keys)
        values[missed] = -1
        open_ = missed[stored[missed] != 0]
        while len(open_):
            slot[open_] = (slot[open_] + 1) & self._mask
            stored = self._keys[slot[open_]]
            hit = stored == keys[open_]
            values[open_[hit]] = self._values[slot[open_[hit]]]
            open_ = open_[~hit & (stored != 0)]
        return values

    def add(self, keys: Keys, values: Values) -> None:
        """Insert keys (n,) that are distinct and not in the table yet."""
        while (self._n + len(keys)) * 2 > len(self._keys):
            self._grow(self._n + len(keys))
        self._n += len(keys)
        self._put(keys | USED, values)

    def _grow(self, n: int) -> None:
        used = self._keys != 0
        keys, values = self._keys[used], self._values[used]
        self._allocate(max(MIN_BITS, (n * self._slots_per_key - 1).bit_length()))
        self._put(keys, values)

    def _put(self, keys: Keys, values: NDArray[Any]) -> None:
        slot = (keys >> self._shift).view(np.int64)
        while len(keys):
            free = self._keys[slot] == 0
            self._keys[slot[free]] = keys[free]  # if several keys want one slot, one of them wins
            won = self._keys[slot] == keys
            self._values[slot[won]] = values[won]
            keys, values, slot = keys[~won], values[~won], (slot[~won] + 1) & self._mask
