"""A history store in one SQLite file, shared by all processes of a machine. It knows SQL, and nothing of what it keeps.

Writers do not wait for readers (WAL). A commit survives the death of the process; with `synchronous=full` that of the
machine too, for a disk flush each. The log is folded into the file by a thread of its own, not by whoever commits.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tsa.errors import ConfigError, HistoryUnavailable
from tsa.serving.history_store import PAYMENTS, Change, Place, Stored, new_stamp, seconds_of_setting, settings_of

CHECKPOINT_SECONDS = 1.0
CHECKPOINT_PAGES = 16_384
"""A log of this many pages is folded in by a committer, where the thread does not get to it."""
SCAN_ROWS = 1000

_SCHEMA = """
create table if not exists payments (name text primary key, stamp integer not null, data blob not null) without rowid;
create table if not exists blocks (number integer primary key, room text not null, name text not null,
    stamp integer not null, data blob not null, unique (room, name));
"""
_READ_PAYMENT = "select stamp, data from payments where name = ?"
_READ_BLOCK = "select stamp, data from blocks where room = ? and name = ?"
_INSERT_PAYMENT = "insert into payments (stamp, data, name) values (?, ?, ?) on conflict do nothing"
_INSERT_BLOCK = "insert into blocks (stamp, data, room, name) values (?, ?, ?, ?) on conflict do nothing"
_UPDATE_PAYMENT = "update payments set stamp = ?, data = ? where name = ? and stamp = ?"
_UPDATE_BLOCK = "update blocks set stamp = ?, data = ? where room = ? and name = ? and stamp = ?"
_DROP_PAYMENT = "delete from payments where name = ? and stamp = ?"
_DROP_BLOCK = "delete from blocks where room = ? and name = ? and stamp = ?"
_SCAN_PAYMENTS = "select name, stamp, data from payments where name > ? order by name limit ?"
_SCAN_BLOCKS = "select name, stamp, data from blocks where room = ? and name > ? order by name limit ?"


class SQLiteStore:
    """See `HistoryStore`."""

    def __init__(self, path: Path, *, synchronous: str = "normal", timeout_seconds: float = 5.0) -> None:
        """Raises ConfigError for another `synchronous` than normal or full, HistoryUnavailable when `path` cannot be opened."""
        if synchronous not in ("normal", "full"):
            raise ConfigError(f"history: synchronous must be normal or full, however: {synchronous!r}")
        self._path, self._timeout = path, timeout_seconds
        self._lock = threading.Lock()
        self._closing = threading.Event()
        with self._refusing():
            self._link = self._connect()
            self._link.execute("pragma journal_mode = wal")
            self._link.execute(f"pragma synchronous = {synchronous}")
            self._link.execute(f"pragma wal_autocheckpoint = {CHECKPOINT_PAGES}")
            self._link.executescript(_SCHEMA)
        self._folder = threading.Thread(target=self._fold_in, name="history-checkpoint", daemon=True)
        self._folder.start()

    @classmethod
    def open(cls, url: str, timeout_seconds: float) -> Self:
        """The store behind `sqlite:///path`; `sqlite:////path` is an absolute one."""
        parts = urlsplit(url)
        path = unquote(parts.path)[1:]
        if parts.netloc or not path:
            raise ConfigError(f"history must be like sqlite:///histories.db, however: {url!r}")
        known = {"synchronous": "normal", "timeout_seconds": str(timeout_seconds)}
        settings = settings_of(url, dict(parse_qsl(parts.query)), known)
        seconds = seconds_of_setting("timeout_seconds", settings["timeout_seconds"])
        return cls(Path(path), synchronous=settings["synchronous"], timeout_seconds=seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, places: Sequence[Place]) -> dict[Place, Stored]:
        """See `HistoryStore`."""
        found = {}
        with self._alone() as link:
            for place in places:
                room, name = place
                row = link.execute(*((_READ_BLOCK, place) if room else (_READ_PAYMENT, (name,)))).fetchone()
                if row is not None:
                    found[place] = Stored(*row)
        return found

    def commit(self, change: Change) -> bool:
        """See `HistoryStore`."""
        with self._alone() as link:
            link.execute("begin immediate")
            try:
                made = _checked(link, change) and _written(link, change)
                link.execute("commit" if made else "rollback")
            except BaseException:
                if link.in_transaction:
                    link.execute("rollback")
                raise
        return made

    def scan(self, room: str) -> Iterator[tuple[Place, Stored]]:
        """See `HistoryStore`. Page by page, so that nobody waits for a long reader."""
        last = ""
        while True:
            with self._alone() as link:
                query = (_SCAN_BLOCKS, (room, last, SCAN_ROWS)) if room else (_SCAN_PAYMENTS, (last, SCAN_ROWS))
                rows = link.execute(*query).fetchall()
            for last, stamp, data in rows:
                yield (room, last), Stored(stamp, data)
            if len(rows) < SCAN_ROWS:
                return

    def purge(self) -> None:
        """Empty the log. In the file itself what was dropped or replaced has been overwritten with zeros already."""
        until = time.monotonic() + self._timeout
        while True:
            with self._alone() as link:
                busy = link.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
            if not busy:
                return
            if time.monotonic() > until:
                raise HistoryUnavailable(f"history store {self._path}: its log is in use and could not be emptied")
            time.sleep(0.01)

    def close(self) -> None:
        """See `HistoryStore`."""
        self._closing.set()
        self._folder.join()
        with self._lock:
            self._link.close()

    def _connect(self) -> sqlite3.Connection:
        link = sqlite3.connect(self._path, self._timeout, isolation_level=None, check_same_thread=False)
        link.execute("pragma secure_delete = on")
        return link

    @contextmanager
    def _alone(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        if not self._lock.acquire(timeout=self._timeout):
            raise HistoryUnavailable(f"history store {self._path} does not answer: others are at it")
        try:
            with self._refusing():
                yield self._link
        finally:
            self._lock.release()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise HistoryUnavailable(f"history store {self._path} does not answer: {error}") from error

    def _fold_in(self) -> None:
        """Fold the log into the file now and then, without holding anybody up."""
        link = self._connect()
        while not self._closing.wait(CHECKPOINT_SECONDS):
            try:
                link.execute("pragma wal_checkpoint(passive)")
            except sqlite3.Error:  # busy: next time
                continue
        link.close()


def _checked(link: sqlite3.Connection, change: Change) -> bool:
    """Whether the places that are seen but not written are as they were; those that are written check themselves."""
    for place, stamp in change.seen.items():
        if place in change.put or (place in change.drop and stamp is not None):
            continue
        room, name = place
        row = link.execute(*((_READ_BLOCK, place) if room else (_READ_PAYMENT, (name,)))).fetchone()
        if (None if row is None else row[0]) != stamp:
            return False
    return True


def _written(link: sqlite3.Connection, change: Change) -> bool:
    """Write and drop; False where a place has moved on."""
    stamp, seen = new_stamp(), change.seen
    put = [(room, name, seen[room, name], data) for (room, name), data in change.put.items()]
    drop = [(room, name, seen[room, name]) for room, name in change.drop if seen[room, name] is not None]
    batches: Mapping[str, list[tuple[object, ...]]] = {
        _INSERT_PAYMENT: [(stamp, data, name) for room, name, old, data in put if room == PAYMENTS and old is None],
        _INSERT_BLOCK: [(stamp, data, room, name) for room, name, old, data in put if room and old is None],
        _UPDATE_PAYMENT: [(stamp, data, name, old) for room, name, old, data in put if not room and old is not None],
        _UPDATE_BLOCK: [(stamp, data, room, name, old) for room, name, old, data in put if room and old is not None],
        _DROP_PAYMENT: [(name, old) for room, name, old in drop if not room],
        _DROP_BLOCK: [(room, name, old) for room, name, old in drop if room],
    }
    made = (link.executemany(statement, rows).rowcount == len(rows) for statement, rows in batches.items() if rows)
    return all(made)
