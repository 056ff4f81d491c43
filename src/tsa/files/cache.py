"""A folder for local copies of folders in object storages, each under the sha256 of its manifest.

A copy that a process uses is locked until the process ends. When space is needed, copies that nobody uses are removed, the
ones used longest ago first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tsa.errors import ConfigError, StoreError

FOLDER, LIMIT = "TSA_CACHE", "TSA_CACHE_GB"
RESERVE_BYTES = 256 * 2**20
"""Free space that the cache leaves on its disk."""

_in_use: dict[Path, IO[bytes]] = {}
"""Locks of the copies that this process uses."""


@dataclass(frozen=True)
class Cache:
    """Copies by key."""

    root: Path
    limit_bytes: int | None = None
    """The most that all copies may have together; None: what the disk has."""

    @classmethod
    def from_environment(cls) -> Cache:
        """The cache in the folder TSA_CACHE (by default, `tsa` in the user's folder for caches) of at most TSA_CACHE_GB.

        Raises:
            ConfigError: If TSA_CACHE_GB is not a number above 0.
        """
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        text = os.environ.get(LIMIT)
        try:
            limit = None if not text else int(float(text) * 10**9)
        except (ValueError, OverflowError):
            limit = 0
        if limit is not None and limit <= 0:
            raise ConfigError(f"{LIMIT} must be a number of gigabytes above 0 (got {text!r})")
        return cls(Path(os.environ.get(FOLDER) or Path(home) / "tsa"), limit)

    def place(self, key: str) -> Path:
        """The folder of a copy, which need not exist."""
        return self.root / key

    @contextmanager
    def filling(self, key: str) -> Iterator[Path | None]:
        """Yield the folder of a copy, to be filled or completed by this process alone; None if another process has it."""
        self.root.mkdir(0o700, parents=True, exist_ok=True)
        with self._lock(key).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            self.place(key).mkdir(0o700, exist_ok=True)
            yield self.place(key)

    def use(self, key: str, marker: str) -> Path | None:
        """The folder of a complete copy, which is not removed before this process ends; None if there is none.

        Args:
            key: Of the copy.
            marker: The file that a copy gets last.
        """
        place = self.place(key)
        if (place / marker).is_file() and place not in _in_use:
            lock = self._lock(key).open("ab")
            fcntl.flock(lock, fcntl.LOCK_SH)
            _in_use[place] = lock
        if not (place / marker).is_file():
            if place in _in_use:
                _in_use.pop(place).close()
            return None
        os.utime(place)
        return place

    def make_space(self, key: str, need: int) -> None:
        """Remove unused copies until `need` more bytes fit.

        Args:
            key: The copy that needs them.
            need: Bytes that will be added to it.

        Raises:
            StoreError: If they do not fit.
        """
        others = [path for path in self.root.iterdir() if path.is_dir() and path.name != key and path.name[0] != "."]
        for path in sorted(others, key=lambda path: path.stat().st_mtime):
            if need <= self._space():
                break
            self._remove(path)
        if need > (space := self._space()):
            advice = f"set {FOLDER} to a larger disk" if self.limit_bytes is None else f"raise {LIMIT}"
            raise StoreError(f"{self.root} must have space for {need:,} more bytes (got {max(space, 0):,}): {advice}")

    def _space(self) -> int:
        free = shutil.disk_usage(self.root).free - RESERVE_BYTES
        if self.limit_bytes is None:
            return free
        return min(free, self.limit_bytes - sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file()))

    def _remove(self, path: Path) -> None:
        """Remove a copy, unless a process uses or fills it. Its lock file stays: another process may be waiting for it."""
        with self._lock(path.name).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            shutil.rmtree(path, ignore_errors=True)

    def _lock(self, key: str) -> Path:
        return self.root / f"{key}.lock"
