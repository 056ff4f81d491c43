"""The analysts' queue of one server process: adds what was answered to the queue's file, in a thread of its own.

Answers never wait for it. What a crash loses is read again from the log of decisions at the next start.
"""

from __future__ import annotations

import fcntl
import logging
import math
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson
import polars as pl

from tsa.data.values import RuleViolation
from tsa.inference.scorer import Scorer
from tsa.serving.analyst_queue.case_database import FRAUD, GENUINE, CaseDatabase, CaseFilter
from tsa.serving.analyst_queue.cases import Case, CaseRule, case_of_entry, case_of_result
from tsa.serving.decisions.read_decisions import answered, outcomes_so_far
from tsa.serving.errors import safe_traceback
from tsa.serving.results import ScoreResult
from tsa.times import DAY_SECONDS

MAX_WAITING = 20_000
"""Largest number of cases and outcomes that wait for the thread; more are lost until the next start, and counted."""
MAX_AT_ONCE = 500
TICK_SECONDS = 0.2
RETRIES = 5
OVERLAP_SECONDS = 600.0
"""Entries of the log this much older than the newest case are read again at the start."""
FIRST_DAYS = 7.0
"""A queue that is new begins with the cases of these last days."""
RETENTION_SECONDS = 3600.0

Result = ScoreResult | RuleViolation
Outcome = tuple[str, str, str | None, float]
"""Id, state, who said so, and when."""

_log = logging.getLogger(__name__)


class ReviewQueue:
    """The queue of a server process. Several processes may share the folder."""

    def __init__(
        self, folder: Path, over: str | None, scorer: Scorer, lost: Callable[[int], None] = lambda count: None
    ) -> None:
        """Args:
            folder: The folder of the log of decisions.
            over: `CaseRule.of`.
            scorer: The served bundle.
            lost: Called with the number of cases that could not be added.

        Raises:
            ConfigError, OSError, sqlite3.Error: `over` is wrong, or the file cannot be opened.
        """
        self.database = CaseDatabase(folder)
        self._folder, self._over, self._lost = folder, over, lost
        self.set_bundle(scorer)
        self._queue: queue.Queue[Case | Outcome | None] = queue.Queue(MAX_WAITING)
        self._swept, self._problem = -math.inf, ""
        self._thread = threading.Thread(target=self._run, name="tsa-queue", daemon=True)
        self._thread.start()

    def set_bundle(self, scorer: Scorer) -> None:
        """Use the decisions of this bundle from now on."""
        market = scorer.bundle.market
        self._rule = CaseRule.of(self._over, scorer.bundle)
        self._amount, self._retention_seconds = market.event.amount, market.retention_seconds

    def add(self, results: Sequence[Result]) -> None:
        """Add the answers of a batch that are cases, soon. Never waits."""
        now = time.time()
        for result in results:
            if isinstance(result, ScoreResult) and self._rule.applies(result.stored_fields()):
                case = case_of_result(result, self._amount, now)
                if case is not None:
                    self._put(case)

    def close_case(self, id_: str, fraud: bool, by: str | None) -> None:
        """Note an outcome, soon. id_: as recorded."""
        self._put((id_, FRAUD if fraud else GENUINE, by, time.time()))

    def close(self, within: float = 5.0) -> None:
        """Add what waits, within this many seconds, and close the file."""
        try:
            self._queue.put(None, timeout=within)
        except queue.Full:
            return
        self._thread.join(within)
        if not self._thread.is_alive():
            self.database.close()

    def _put(self, item: Case | Outcome) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._lost(1)

    def _run(self) -> None:
        self._careful(self._fill_from_log)
        is_open = True
        while is_open:
            items, is_open = self._next()
            self._careful(lambda items=items: self._write(items), len(items))  # type: ignore[misc]
            if time.monotonic() - self._swept >= RETENTION_SECONDS and math.isfinite(self._retention_seconds):
                self._swept = time.monotonic()
                self._careful(lambda: self.database.delete_before(time.time() - self._retention_seconds))

    def _next(self) -> tuple[list[Case | Outcome], bool]:
        """What waits, and whether more may come. Waits a moment for the first."""
        items: list[Case | Outcome] = []
        try:
            item = self._queue.get(timeout=TICK_SECONDS)
            while item is not None:
                items.append(item)
                if len(items) == MAX_AT_ONCE:
                    return items, True
                item = self._queue.get_nowait()
        except queue.Empty:
            return items, True
        return items, False

    def _write(self, items: Sequence[Case | Outcome]) -> None:
        if cases := [item for item in items if isinstance(item, Case)]:
            self.database.add(cases)
        for item in items:
            if not isinstance(item, Case):
                self.database.set_state(*item)

    def _careful(self, call: Callable[[], object], count: int = 0) -> None:
        """Call, and again after a moment if the file is busy. A problem is logged once for each kind, and its cases counted."""
        for attempt in range(1, RETRIES + 1):
            try:
                call()
                self._problem = ""
                return
            except Exception as error:  # the queue must never end the server
                if isinstance(error, sqlite3.OperationalError) and attempt < RETRIES:
                    time.sleep(TICK_SECONDS)
                    continue
                problem = safe_traceback(error)
                if problem != self._problem:
                    _log.error("the analysts' queue cannot be written, payments are still scored: %s", problem)
                self._problem = problem
                self._lost(count)
                return

    def _fill_from_log(self) -> None:
        """Add what the log of decisions has and the queue lacks. One process of a machine does it at a time."""
        with (self._folder / "queue.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            newest = self.database.newest()
            since = time.time() - FIRST_DAYS * DAY_SECONDS if newest is None else newest - OVERLAP_SECONDS
            self.database.add(logged_cases(self._folder, self._rule, self._amount, since))
            self.database.close_open(logged_outcomes(self._folder, self.database.ids(CaseFilter(), sys.maxsize)))


def logged_outcomes(folder: Path, ids: Sequence[str]) -> Iterator[Outcome]:
    """The outcomes so far of these payments, by a log of decisions."""
    known = outcomes_so_far(folder).filter(pl.col("id").is_in(ids))
    for row in known.iter_rows(named=True):
        yield row["id"], FRAUD if row["fraud"] else GENUINE, row["by"], row["known_at"].timestamp()


def logged_cases(folder: Path, rule: CaseRule, amount: str | None, since: float) -> Iterator[Case]:
    """The cases among the answers of a log of decisions.

    Args:
        folder: The folder of the log.
        rule: Which answers become cases.
        amount: The column of the amount.
        since: Only answers from this moment on, in epoch seconds.
    """
    for row in answered(folder, since=since).iter_rows(named=True):
        usable = row["id"] is not None and row["role"] == 0 and row["time"] is not None
        if not usable or row["replayed"] or not rule.applies(row):
            continue
        yield case_of_entry(row, orjson.loads(row["values"]), amount)
