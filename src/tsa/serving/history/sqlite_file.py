"""The connection to the file of a SQLite history store; reopened if the file or its WAL was removed or replaced.

SQLite continues to write to an unlinked file. So the file at the path and its WAL are compared with the opened ones after
each commit and now and then. A WAL that belongs to another file is renamed, since SQLite would mix the two.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tsa.errors import HistoryError, HistoryLost, HistoryUnavailable
from tsa.serving.history.identity import ADVICE
from tsa.serving.history.sqlite_rows import foreign_tables
from tsa.text import brief

CHECKPOINT_PAGES = 16_384
"""A commit runs the checkpoint itself if the WAL has this many pages, that is if the thread falls behind."""
CHECK_SECONDS = 0.05
"""How often the file, its WAL and the WAL index are compared with the opened ones, besides after each commit."""
OWNER_ONLY = 0o600
STALE_SUFFIX = ".of-another-file"

_log = logging.getLogger(__name__)

_REASONS = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_IOERR: "disk",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "denied",
    sqlite3.SQLITE_AUTH: "denied",
    sqlite3.SQLITE_NOMEM: "memory",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_CANTOPEN: "away",
    sqlite3.SQLITE_PROTOCOL: "locked",
}

_FileIds = tuple[tuple[int, int], ...]


class SQLiteFile:
    """One connection to the file at a path. Not safe to use from several threads at once."""

    def __init__(self, path: Path, *, synchronous: str, timeout_seconds: float) -> None:
        self.path, self._synchronous, self._timeout = path, synchronous, timeout_seconds
        self._names = tuple(f"{path}{end}" for end in ("", "-wal", "-shm"))
        self._link: sqlite3.Connection | None = None
        self._ids_seen: _FileIds = ()
        self._check_at = 0.0
        self.same_at = 0.0
        """Epoch seconds when the opened file was last known to be the one at the path."""

    @property
    def opened(self) -> sqlite3.Connection | None:
        """The connection, if it is open."""
        return self._link

    def make(self) -> None:
        """Create an empty file, readable by its owner only, if there is none. Raises HistoryUnavailable."""
        with self.refusing(), contextlib.suppress(FileExistsError):
            if not self.is_there():
                self._rename_stale_wal()
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY))

    def refuse_foreign(self) -> None:
        """Raise HistoryError if the file has tables of another program. Does not change the file: it is read without locks."""
        uri = f"file:{quote(str(self.path))}?mode=ro&immutable=1"
        others: list[str] = []
        # without locks, a read in the middle of another worker's checkpoint may fail; real damage is reported later
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri, uri=True)) as link:
            others = foreign_tables(link)
        if others:
            names = ", ".join(map(brief, others[:5]))
            raise HistoryError(
                f"history store {self.path} must be a file of TSA or not exist (it has tables of another program: {names}); "
                "choose another path"
            )

    def is_there(self) -> bool:
        """Whether the file exists."""
        return self.path.exists()

    def link(self) -> sqlite3.Connection:
        """The connection, opened if needed, and reopened if the file was removed or replaced.

        Raises:
            HistoryLost: there is no file at the path.
        """
        if self._link is not None and time.monotonic() > self._check_at and not self._is_same():
            self._save_log(self._link)
            self.close()
            self._drop_stale_wal()
        if self._link is None:
            if not self.is_there():
                raise HistoryLost(f"history store {self.path} is gone, its file was removed: {ADVICE}", "lost")
            self.same_at = time.time()
            self._link = self._opened()
            self._ids_seen = self._file_ids(self._names)
        return self._link

    def has_moved(self) -> bool:
        """Whether the file or its WAL was removed or replaced; if so, it is reopened at the next use."""
        before = time.time()
        moved = self._file_ids(self._names[:2]) != self._ids_seen[:2]
        if moved:
            self._check_at = 0.0
        else:
            self.same_at = before
        return moved

    def close(self) -> None:
        """Close the file."""
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(sqlite3.Error):
                link.close()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Translate errors of SQLite and the system into HistoryUnavailable; reopen a damaged or moved file next time."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None) or 0
            reason = _REASONS.get(code & 0xFF, "other")
            text = f"history store {self.path} does not answer: {error}"
            if reason in ("damaged", "disk", "read_only", "away"):
                self.close()
            raise HistoryUnavailable(text, reason) from error
        except OSError as error:
            raise HistoryUnavailable(f"history store {self.path} does not answer: {error.strerror}", "away") from error

    def another_link(self) -> sqlite3.Connection:
        """A second connection, for another thread."""
        uri = f"file:{quote(str(self.path))}?mode=rw"
        link = sqlite3.connect(uri, self._timeout, isolation_level=None, check_same_thread=False, uri=True)
        link.execute("pragma secure_delete = on")
        return link

    def _opened(self) -> sqlite3.Connection:
        link = self.another_link()
        try:
            link.execute("pragma journal_mode = wal")
            link.execute(f"pragma synchronous = {self._synchronous}")
            link.execute(f"pragma wal_autocheckpoint = {CHECKPOINT_PAGES}")
            link.execute(
                "select count(*) from sqlite_master"
            ).fetchone()  # creates the WAL, so that the first comparison finds it
        except BaseException:
            link.close()
            raise
        return link

    def _save_log(self, link: sqlite3.Connection) -> None:
        """If only the WAL was removed, write its content, which only this connection can still read, into the file."""
        with contextlib.suppress(OSError, sqlite3.Error):
            status = os.stat(self.path)
            if self._ids_seen[:1] == ((status.st_dev, status.st_ino),) and not os.path.exists(self._names[1]):
                link.execute("pragma wal_checkpoint(passive)")

    def _drop_stale_wal(self) -> None:
        """Rename the WAL if the file at the path was replaced, but the WAL is still that of the opened file."""
        now, before = self._file_ids(self._names[:1]), self._ids_seen[:1]
        if now and before and now != before and self._file_ids(self._names[1:2]) == self._ids_seen[1:2]:
            self._rename_stale_wal()

    def _rename_stale_wal(self) -> None:
        """Rename the WAL of a file that was removed, and delete the WAL index."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._names[1]).st_size:
                os.replace(self._names[1], f"{self._names[1]}{STALE_SUFFIX}")
                _log.error(
                    "%s belongs to another file and was renamed to %s%s", self._names[1], self._names[1], STALE_SUFFIX
                )
            else:
                os.unlink(self._names[1])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._names[2])

    def _is_same(self) -> bool:
        """Whether the file and its WAL are the opened ones."""
        before, self._check_at = time.time(), time.monotonic() + CHECK_SECONDS
        same = self._file_ids(self._names) == self._ids_seen
        if same:
            self.same_at = before
        return same

    @staticmethod
    def _file_ids(names: Sequence[str]) -> _FileIds:
        try:
            return tuple((status.st_dev, status.st_ino) for status in map(os.stat, names))
        except OSError:
            return ()
