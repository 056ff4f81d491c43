"""A history store that tells how long each of its calls takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from tsa.serving.history_store import Change, HistoryStore, Place, Stored


class TimedStore:
    """Another store, timed. `observe` is called with the seconds of each read and commit."""

    def __init__(self, store: HistoryStore, observe: Callable[[float], None]) -> None:
        self._store, self._observe = store, observe

    def read(self, places: Sequence[Place]) -> dict[Place, Stored]:
        """As the store's."""
        begun = time.perf_counter()
        try:
            return self._store.read(places)
        finally:
            self._observe(time.perf_counter() - begun)

    def commit(self, change: Change) -> bool:
        """As the store's."""
        begun = time.perf_counter()
        try:
            return self._store.commit(change)
        finally:
            self._observe(time.perf_counter() - begun)

    def scan(self, room: str) -> Iterator[tuple[Place, Stored]]:
        """As the store's; not timed."""
        return self._store.scan(room)

    def purge(self) -> None:
        """As the store's; not timed."""
        self._store.purge()

    def close(self) -> None:
        """As the store's."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
