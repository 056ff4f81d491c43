"""Detect that another program overwrote the file of a SQLite history store, for example `cp`.

SQLite does not notice it, and would mix its WAL with the new content. Each complete checkpoint writes the store's generation
into the file itself. So whenever the file has changed, the row of the store is read from the file, without the WAL. Only
SQLite opens the file: if anything else opened and closed it, SQLite would lose its locks in this process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from tsa.errors import HistoryLost
from tsa.serving.history.identity import Identity
from tsa.serving.history.sqlite_rows import store_row

READS, READ_SECONDS = 5, 0.02
"""How often an unreadable row is read again, and the pause in between: a checkpoint may be writing it."""

StoreRow = tuple[bytes, int]
"""Identity and generation of a store."""


class FileContent:
    """What the opened file must contain. A new one for each connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: StoreRow | None = None
        """The last row of the store that the connection has read, and that was accepted."""
        self._least: StoreRow | None = None
        """A row that the file itself contains, or a later one."""
        self._seen: tuple[int, int] | None = None
        """Modification time and size of the file at the last comparison."""

    def has_all_of(self, known: StoreRow | None) -> None:
        """Note a complete checkpoint. known: `known` before it."""
        self._least = known

    def is_overwritten(self, link: sqlite3.Connection, file_id: tuple[int, int]) -> bool:
        """Whether the file contains another store, an earlier state of this one, or none.

        Args:
            link: the connection to the file.
            file_id: device and inode of the opened file. Another file at the path is not compared.
        """
        try:
            status = os.stat(self._path)
        except OSError:
            return False
        now = status.st_mtime_ns, status.st_size
        if now == self._seen or (status.st_dev, status.st_ino) != file_id:
            return False
        if self._least is not None and not self._contains(self._least, link):
            return True
        self._seen = now
        return False

    def _contains(self, least: StoreRow, link: sqlite3.Connection) -> bool:
        row = self._row_in_file()
        if row is None:
            return False
        expected, actual = Identity.unpack(least[0]), Identity.unpack(row[0])
        if expected.id in (actual.id, actual.follows):
            return row[1] >= least[1]
        with contextlib.suppress(
            sqlite3.Error
        ):  # adopted twice in between: SQLite reads the same, and the guard compares it
            seen = store_row(link)
            return seen is not None and seen[0] == row[0]
        return False

    def _row_in_file(self) -> StoreRow | None:
        uri = f"file:{quote(str(self._path))}?mode=ro&immutable=1"  # immutable: without the WAL
        for _ in range(READS):
            with (
                contextlib.suppress(sqlite3.Error, HistoryLost),
                contextlib.closing(sqlite3.connect(uri, uri=True)) as link,
            ):
                row = store_row(link)
                if row is not None:
                    Identity.unpack(row[0])
                    return row
            time.sleep(READ_SECONDS)
        return None
