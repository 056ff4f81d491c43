"""Journals: files of JSON lines that entries are appended to before they become Parquet.

A journal is locked while a process appends to it. The lock ends with the process, however it ends, so that another one can
take over the journals of a process that was killed. Locks need a local file system.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from tsa.files.writing import PRIVATE

FOLDER = "journal"
"""The folder of the journals, inside that of the log."""
SUFFIX = ".jsonl"


class Journal:
    """A journal that this process appends to."""

    def __init__(self, folder: Path) -> None:
        """Create a journal in the folder of a log. Raises OSError."""
        within = folder / FOLDER
        within.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.path = within / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        self.begun, self.size = time.time(), 0
        hidden = within / f".{self.path.name}.tmp"
        self._file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, PRIVATE)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        hidden.rename(self.path)  # only now, so that nobody sees it without its lock
        _sync_folder(within)
        self._is_synced = True

    def append(self, data: bytes) -> None:
        """Append complete lines. Raises OSError; the file then ends as before."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)
        self._is_synced = False

    def sync(self) -> None:
        """Flush to the disk what was appended. Raises OSError."""
        if not self._is_synced:
            os.fsync(self._file)
            self._is_synced = True

    def close(self) -> None:
        """Unlock and close it."""
        os.close(self._file)


def _sync_folder(folder: Path) -> None:
    """Flush the names of a folder's files, without which a crash of the machine could lose a synced journal."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def abandoned(folder: Path) -> Iterator[Path]:
    """The journals that no process appends to, each locked by this one until the next is asked for."""
    for path in journals(folder):
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():
                yield path
        except BlockingIOError:
            pass
        finally:
            os.close(file)


def journals(folder: Path) -> list[Path]:
    """The paths of all journals, the oldest first."""
    return sorted((folder / FOLDER).glob(f"*{SUFFIX}"))


def complete_lines(path: Path) -> bytes:
    """The complete lines of a journal: what was being written during a crash is left out."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]
