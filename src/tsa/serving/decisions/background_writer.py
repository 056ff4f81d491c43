"""The log of decisions of one server process.

Entries wait in a queue that never makes an answer wait, and a thread appends them to a journal; with `sync`, they are flushed
to the disk before the answer is sent. From time to time the journal becomes Parquet files.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tsa.serving.decisions.entries import line_of
from tsa.serving.decisions.journal import Journal, journals
from tsa.serving.decisions.parquet_files import convert, convert_abandoned, delete_before
from tsa.serving.errors import safe_traceback
from tsa.system_errors import resource_problem
from tsa.times import DAY_SECONDS

MAX_WAITING = 20_000
"""Largest number of entries that wait for the thread; more are lost, and counted."""
MAX_AT_ONCE = 1000
MAX_BYTES = 32 * 2**20
"""A larger journal becomes Parquet at once."""
TICK_SECONDS = 0.5
ROTATE_MARK = "rotate"
"""A file of the log's folder: when it changes, journals become Parquet at once."""
RETENTION_SECONDS = 3600.0

Entry = Mapping[str, Any]
Count = Callable[[int], None]

_log = logging.getLogger(__name__)


class DecisionLog:
    """Appends entries to the log in a folder. Several processes may share the folder."""

    def __init__(
        self,
        folder: Path,
        *,
        sync: bool = False,
        flush_seconds: float = 10.0,
        rotate_seconds: float = 600.0,
        retention_seconds: float = math.inf,
        logged: Count = lambda count: None,
        lost: Count = lambda count: None,
    ) -> None:
        """Args:
            folder: Created if it does not exist.
            sync: Flush each entry to the disk before `record` returns.
            flush_seconds: Without `sync`: how often the journal is flushed to the disk.
            rotate_seconds: How often the journal becomes Parquet.
            retention_seconds: Days that ended longer ago are deleted.
            logged, lost: Called with a number of entries.

        Raises:
            OSError: The folder cannot be created or written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _check_writable(folder)
        self._folder, self._sync = folder, sync
        self._flush_seconds, self._rotate_seconds = flush_seconds, rotate_seconds
        self._retention_seconds = retention_seconds
        self._logged, self._lost = logged, lost
        self._lock = threading.Lock()
        self._journal: Journal | None = None
        self._flushed, self._swept, self._problem = time.monotonic(), -math.inf, ""
        self._mark = self._rotate_mark()
        self._queue: queue.Queue[Entry | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="tsa-decisions", daemon=True)
        self._thread.start()

    def record(self, entries: Sequence[Entry]) -> None:
        """Append entries: with `sync` before this returns, else soon; then this never waits.

        Raises:
            OSError: With `sync`: they could not be written.
        """
        if not entries:
            return
        if not self._sync:
            self.record_soon(entries)
            return
        try:
            self._append(entries, sync=True)
        except OSError as error:
            self._report(error, len(entries))
            raise

    def record_soon(self, entries: Sequence[Entry]) -> None:
        """Append entries soon, also with `sync`. Never waits; what does not fit into the queue is lost, and counted."""
        for at, entry in enumerate(entries):
            try:
                self._queue.put_nowait(entry)
            except queue.Full:
                self._lost(len(entries) - at)
                return

    def close(self, within: float = 5.0) -> None:
        """Append what waits, and convert the journal into Parquet, within this many seconds."""
        end = time.monotonic() + within
        try:
            self._queue.put(None, timeout=within)
        except queue.Full:
            return
        self._thread.join(max(0.0, end - time.monotonic()))

    def _append(self, entries: Sequence[Entry], *, sync: bool = False) -> None:
        data = b"".join(map(line_of, entries))
        with self._lock:
            if self._journal is None:
                self._journal = Journal(self._folder)
            self._journal.append(data)
            if sync:
                self._journal.sync()
        self._logged(len(entries))
        self._problem = ""

    def _run(self) -> None:
        is_open = True
        while is_open:
            entries, is_open = self._next()
            try:
                if entries:
                    self._append(entries)
            except OSError as error:
                self._report(error, len(entries))
            try:
                self._maintain(is_last=not is_open)
            except Exception as error:  # journals stay, and are converted later
                self._report(error, 0)

    def _next(self) -> tuple[list[Entry], bool]:
        """The entries that wait, and whether more may come. Waits a moment for the first."""
        entries: list[Entry] = []
        try:
            entry = self._queue.get(timeout=TICK_SECONDS)
            while entry is not None:
                entries.append(entry)
                if len(entries) == MAX_AT_ONCE:
                    return entries, True
                entry = self._queue.get_nowait()
        except queue.Empty:
            return entries, True
        return entries, False

    def _maintain(self, *, is_last: bool) -> None:
        """Flush the journal, convert it, and delete old days, where it is time for each."""
        now = time.monotonic()
        if now - self._flushed >= self._flush_seconds:
            self._flushed = now
            with self._lock:
                if self._journal is not None:
                    self._journal.sync()
        mark = self._rotate_mark()
        if is_last or mark != self._mark or self._is_due():
            self._mark = mark
            self._rotate()
        if now - self._swept >= RETENTION_SECONDS:
            self._swept = now
            convert_abandoned(self._folder)
            if math.isfinite(self._retention_seconds):
                delete_before(self._folder, time.time() - self._retention_seconds)

    def _is_due(self) -> bool:
        journal = self._journal
        if journal is None:
            return False
        now = time.time()
        is_other_day = now // DAY_SECONDS != journal.begun // DAY_SECONDS
        return is_other_day or journal.size > MAX_BYTES or now - journal.begun >= self._rotate_seconds

    def _rotate(self) -> None:
        with self._lock:
            journal, self._journal = self._journal, None
        if journal is not None:
            try:
                journal.sync()
                convert(self._folder, journal.path)
            finally:
                journal.close()
        convert_abandoned(self._folder)

    def _rotate_mark(self) -> int:
        try:
            return (self._folder / ROTATE_MARK).stat().st_mtime_ns
        except OSError:
            return 0

    def _report(self, error: Exception, count: int) -> None:
        """Count entries that were not written, and log why, once for each kind of problem."""
        if count:
            self._lost(count)
        problem = resource_problem(error) or safe_traceback(error)
        if problem != self._problem:
            _log.error("the log of decisions cannot be written, payments are still scored: %s", problem)
        self._problem = problem


def _check_writable(folder: Path) -> None:
    """Raise OSError here, and not at the first payment."""
    journal = Journal(folder)
    journal.path.unlink()
    journal.close()


def rotate_all(folder: Path, within: float = 10.0) -> bool:
    """Ask the processes that use a log to convert their journals, and wait for it.

    Returns:
        Whether all journals that there were are converted.
    """
    convert_abandoned(folder)
    left = set(journals(folder))
    if not left:
        return True
    (folder / ROTATE_MARK).write_text(f"{time.time()}\n")
    end = time.monotonic() + within
    while (left := left & set(journals(folder))) and time.monotonic() < end:
        time.sleep(0.1)
        convert_abandoned(folder)
    return not left
