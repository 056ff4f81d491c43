"""A history store in one SQLite file in WAL mode, shared by all processes of a machine.

A commit survives the end of the process; with `synchronous=full`, which flushes the disk each time, also a crash of the
machine. A thread runs the WAL checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from tsa.errors import ConfigError, HistoryError, HistoryLost, HistoryUnavailable
from tsa.serving.history import sqlite_rows as rows
from tsa.serving.history.base import (
    New,
    StoreKey,
    VersionedValue,
    WriteBatch,
    new_store,
    seconds_of_setting,
    url_options,
)
from tsa.serving.history.identity import ADVICE, Guard, GuardedStore, Identity, Seen
from tsa.serving.history.sqlite_file import SQLiteFile

CHECKPOINT_SECONDS = 1.0

_log = logging.getLogger(__name__)


class SQLiteStore(GuardedStore):
    """A `HistoryStore` in SQLite.

    Each read and commit checks the store's identity and generation, and that the file is still the one at its path.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: str = "normal",
        timeout_seconds: float = 5.0,
        new: New = "make",
        seen: Seen | None = None,
    ) -> None:
        """For `new`, `seen` and their errors see `open_history`.

        Raises:
            ConfigError: `synchronous` is not normal or full.
            HistoryUnavailable: `path` cannot be opened.
        """
        if synchronous not in ("normal", "full"):
            raise ConfigError(f"history: synchronous must be normal or full (got {synchronous!r})")
        path = path.absolute()
        self._path, self._timeout = path, timeout_seconds
        self._file = SQLiteFile(path, synchronous=synchronous, timeout_seconds=timeout_seconds)
        self._guard = Guard(str(path), seen)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        if seen is None:
            try:
                self._begin(new)
            except BaseException:
                self._file.close()
                raise
        self._folder = threading.Thread(target=self._fold_in, name="history-checkpoint", daemon=True)
        self._folder.start()

    @classmethod
    def open(cls, url: str, timeout_seconds: float, *, new: New = "make", seen: Seen | None = None) -> Self:
        """Open the store at `sqlite:///path` (`sqlite:////path`: an absolute path).

        The path is not decoded; settings follow after a `?`.
        """
        place, _, query = url.partition("?")
        path = place.removeprefix("sqlite:///")
        if path == place or not path or not path.isprintable():
            raise ConfigError("history must be like sqlite:///histories.db")
        if path == ":memory:":
            raise ConfigError("history must be a file (got :memory:): a store in memory is lost when the process ends")
        known = {"synchronous": "normal", "timeout_seconds": str(timeout_seconds)}
        settings, unknown = url_options(query, known)
        if unknown:
            raise ConfigError(f"history: settings must be of {sorted(known)} (got {sorted(unknown)})")
        seconds = seconds_of_setting("timeout_seconds", settings["timeout_seconds"])
        return cls(Path(path), synchronous=settings["synchronous"], timeout_seconds=seconds, new=new, seen=seen)

    def read(self, places: Sequence[StoreKey]) -> dict[StoreKey, VersionedValue]:
        """See `HistoryStore`."""
        values: dict[StoreKey, VersionedValue] = {}
        if not places:
            return values
        with self._alone() as link:
            link.execute("begin")
            try:
                self._check_store(link)
                for place in places:
                    if (stored := rows.read_place(link, place)) is not None:
                        values[place] = stored
            finally:
                rows.end(link)
        return values

    def check_absent(self, places: Sequence[StoreKey]) -> None:
        """See `HistoryStore`. SQLite evicts nothing."""

    def commit(self, change: WriteBatch) -> bool:
        """See `HistoryStore`."""
        with self._alone() as link:
            link.execute("begin immediate")
            try:
                identity = self._check_store(link)
                made = rows.is_as_seen(link, change) and rows.written(link, change)
                mark = rows.raise_generation(link, identity) if made else None
                link.execute("rollback" if mark is None else "commit")
            finally:
                rows.end(link)
            if mark is None or self._file.has_moved():
                return False  # what went to a file that is no longer there is not acknowledged
            same_at = self._file.same_at
        self._guard.note(identity, mark, at=same_at)
        return True

    def scan(self, namespace: str) -> Iterator[tuple[StoreKey, VersionedValue]]:
        """See `HistoryStore`. Read in pages, so that a long scan blocks nobody."""
        last = ""
        while True:
            with self._alone() as link:
                page = rows.read_page(link, namespace, last)
            for last, version, data in page:
                yield (namespace, last), VersionedValue(version, data)
            if len(page) < rows.SCAN_ROWS:
                return

    def compact(self) -> None:
        """Truncate the WAL. In the file itself, deleted data is already overwritten with zeros (secure_delete)."""
        until = time.monotonic() + self._timeout
        while True:
            with self._alone() as link:
                busy = link.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
            if not busy:
                return
            if time.monotonic() > until:
                text = f"history store {self._path}: its WAL is in use and could not be truncated"
                raise HistoryUnavailable(text, "locked")
            time.sleep(0.01)

    def check(self) -> None:
        """See `HistoryStore`."""
        with self._alone() as link:
            link.execute("begin immediate")
            try:
                self._check_store(link)
            finally:
                rows.end(link)

    def adopt(self) -> None:
        """See `HistoryStore`."""
        with self._alone() as link:
            link.execute("begin immediate")
            try:
                before = rows.store_row(link)
                identity = Identity.adopted(None if before is None else before[0])
                rows.make_tables(link, identity.pack(), replace=True)
                link.execute("commit")
                self._check_store(link)
            finally:
                rows.end(link)

    def close(self) -> None:
        """See `HistoryStore`."""
        self._closing.set()
        self._folder.join()
        with self._lock:
            self._file.close()

    def on_failure(self, call: Callable[[str], object]) -> None:
        """See `HistoryStore`. No call is made again here."""

    def _begin(self, new: New) -> None:
        """Check the store at opening; create it if asked to."""
        if not self._path.absolute().parent.is_dir():
            what = f"the folder {self._path.parent} does not exist"
            raise HistoryUnavailable(f"{what}: create it, or correct --history")
        if new == "refuse" and not self._file.is_there():
            raise new_store(str(self._path))
        if new != "refuse":
            self._file.make()
        with self._file.refusing():
            self._file.refuse_foreign()
            link = self._file.link()
            if rows.has_older_tables(link):
                raise HistoryError(
                    f"this program cannot read the tables of history store {self._path} (got those of version 3 or older); "
                    "load a new one with tsa history load"
                )
            link.execute("begin immediate")
            try:
                made = rows.store_row(link) is None
                if made and new != "adopt":
                    self._make(link, new)
                link.execute("commit")
            finally:
                rows.end(link)
            if new != "adopt":
                self._check_store(link)
        if made and new != "adopt":
            _log.warning("new store, 0 payments: %s", self._path)

    def _make(self, link: sqlite3.Connection, new: New) -> None:
        """Create a new store with a new identity."""
        if rows.holds_anything(link):
            raise HistoryLost(f"history store {self._path} has no identity, or has lost it: {ADVICE}", "lost")
        if new == "refuse":
            raise new_store(str(self._path))
        rows.make_tables(link, Identity.new().pack())

    def _check_store(self, link: sqlite3.Connection) -> bytes:
        """The store's identity. Raises HistoryLost where this is not the store that it was."""
        before, own = self._guard.seen, self._guard.own
        row = rows.store_row(link)
        identity, generation = row or (None, None)
        try:
            mark = rows.read_mark(link, own)
            self._guard.check(identity, generation, before, own=own, mark_found=mark, at=self._file.same_at)
        except HistoryLost as lost:
            if lost.reason == "older" and row is not None:
                self._condemn(link, row[0])
            raise
        assert identity is not None
        return identity

    def _condemn(self, link: sqlite3.Connection, identity: bytes) -> None:
        """Mark the store as lost: it went back to an earlier state, which other processes may not be able to notice."""
        rows.end(link)
        rows.condemn(link, identity, replace(Identity.unpack(identity), lost=True).pack())

    @contextmanager
    def _alone(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        if not self._lock.acquire(timeout=self._timeout):
            raise HistoryUnavailable(
                f"history store {self._path} does not answer: other threads are using it", "locked"
            )
        try:
            with self._file.refusing():
                yield self._file.link()
        finally:
            self._lock.release()

    def _check_file(self) -> None:
        """Check the file also without traffic, before another process opens it with a WAL of another file."""
        with contextlib.suppress(HistoryUnavailable), self._alone():
            pass

    def _fold_in(self) -> None:
        """Run a WAL checkpoint now and then, without blocking anyone."""
        link, of = None, None
        while not self._closing.wait(CHECKPOINT_SECONDS):
            self._check_file()
            try:
                if link is None or of is not self._file.opened:
                    if link is not None:
                        link.close()
                    link, of = None, self._file.opened
                    link = None if of is None else self._file.another_link()
                if link is not None:
                    link.execute("pragma wal_checkpoint(passive)")
            except sqlite3.Error:  # busy: next time
                continue
        if link is not None:
            link.close()
