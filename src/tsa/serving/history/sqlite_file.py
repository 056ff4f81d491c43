"""The file of a history store in SQLite: opened, watched for being removed or replaced, opened again. It knows no histories.

SQLite goes on writing to a file that was unlinked, and nobody ever sees what it wrote. So the file that the path leads to is
compared with the one that was opened, and its log likewise: after each commit, and now and then. A log is found by its name
alone: one that was left beside another file is put aside, since SQLite would mix the two.
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

from tsa.errors import HistoryLost, HistoryUnavailable
from tsa.serving.history.identity import ADVICE

CHECKPOINT_PAGES = 16_384
"""A log of this many pages is folded in by a committer, where the thread does not get to it."""
LOOK_SECONDS = 0.05
"""How often the file, its log and the log's index are compared with those that were opened, beside after each commit."""
OWNER_ONLY = 0o600
ASIDE = ".of-another-file"

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

_Marks = tuple[tuple[int, int], ...]


class SQLiteFile:
    """One connection to the file at a path. Not safe to use from several threads at once."""

    def __init__(self, path: Path, *, synchronous: str, timeout_seconds: float) -> None:
        self.path, self._synchronous, self._timeout = path, synchronous, timeout_seconds
        self._names = tuple(f"{path}{end}" for end in ("", "-wal", "-shm"))
        self._link: sqlite3.Connection | None = None
        self._marks: _Marks = ()
        self._look_at = 0.0

    @property
    def opened(self) -> sqlite3.Connection | None:
        """The connection, if it is open."""
        return self._link

    def make(self) -> None:
        """Make an empty file, which its owner alone may read, where there is none. Raises HistoryUnavailable."""
        with self.refusing(), contextlib.suppress(FileExistsError):
            if not self.is_there():
                self._put_log_aside()
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY))

    def is_there(self) -> bool:
        """Whether something stands at the path."""
        return self.path.exists()

    def link(self) -> sqlite3.Connection:
        """The connection; opened where it is not, and anew where the file was removed or replaced. Raises HistoryLost where
        there is none at the path."""
        if self._link is not None and time.monotonic() > self._look_at and not self._is_same():
            self._save_log(self._link)
            self.close()
            self._part_from_log()
        if self._link is None:
            if not self.is_there():
                raise HistoryLost(f"history store {self.path} is gone, its file was removed: {ADVICE}", "lost")
            self._link = self._opened()
            self._marks = self._found(self._names)
        return self._link

    def has_moved(self) -> bool:
        """Whether the file, or its log, was removed or replaced; it is then opened anew the next time."""
        moved = self._found(self._names[:2]) != self._marks[:2]
        if moved:
            self._look_at = 0.0
        return moved

    def close(self) -> None:
        """Let go of the file."""
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(sqlite3.Error):
                link.close()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """What SQLite and the system raise, in the project's words. What is damaged or moved is opened anew the next time."""
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
            link.execute("select count(*) from sqlite_master").fetchone()  # the log is there from the first look on
        except BaseException:
            link.close()
            raise
        return link

    def _save_log(self, link: sqlite3.Connection) -> None:
        """Where the log alone was removed: fold into the file what only this connection can still see of it."""
        with contextlib.suppress(OSError, sqlite3.Error):
            found = os.stat(self.path)
            if self._marks[:1] == ((found.st_dev, found.st_ino),) and not os.path.exists(self._names[1]):
                link.execute("pragma wal_checkpoint(passive)")

    def _part_from_log(self) -> None:
        """Where another file stands at the path, and beside it the log of the one that was opened: put the log aside."""
        now, before = self._found(self._names[:1]), self._marks[:1]
        if now and before and now != before and self._found(self._names[1:2]) == self._marks[1:2]:
            self._put_log_aside()

    def _put_log_aside(self) -> None:
        """What was left beside a file that is gone: the log is kept under another name, its index is not."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._names[1]).st_size:
                os.replace(self._names[1], f"{self._names[1]}{ASIDE}")
                _log.error("%s was left by another file: it is kept as %s%s", self._names[1], self._names[1], ASIDE)
            else:
                os.unlink(self._names[1])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._names[2])

    def _is_same(self) -> bool:
        """Whether the file and its log are those that were opened."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        return self._found(self._names) == self._marks

    @staticmethod
    def _found(names: Sequence[str]) -> _Marks:
        try:
            return tuple((found.st_dev, found.st_ino) for found in map(os.stat, names))
        except OSError:
            return ()
