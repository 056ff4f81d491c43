"""The cases of the analysts' queue, in a SQLite file inside the folder of the log of decisions.

All workers of a machine share the file, whatever the history store is. An analyst who opens a case gets a lease, and until
it ends nobody else gets the case.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tsa.files.writing import PRIVATE
from tsa.serving.analyst_queue.cases import Case

FILE = "queue.db"
OPEN, FRAUD, GENUINE, HANDED_ON = "open", "fraud", "genuine", "handed on"
LATER, DONE = "later", "done"
STATES = (OPEN, LATER, DONE, HANDED_ON)
"""What a list can show: cases to review, those put off, those with an outcome, and those handed on."""
BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS cases (
    id TEXT PRIMARY KEY, scored_at REAL NOT NULL, time REAL NOT NULL, amount REAL, raw_score REAL NOT NULL,
    percentile REAL, probability REAL, decision TEXT, version TEXT NOT NULL, arm TEXT NOT NULL, degraded INTEGER NOT NULL,
    keys TEXT NOT NULL, "values" TEXT NOT NULL, expected_loss REAL NOT NULL, state TEXT NOT NULL,
    not_before REAL NOT NULL DEFAULT 0, lease_by TEXT, lease_until REAL NOT NULL DEFAULT 0,
    changed_by TEXT, changed_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_loss ON cases (state, expected_loss DESC);
"""
_WHERE = {
    OPEN: "state = 'open' AND not_before <= :now",
    LATER: "state = 'open' AND not_before > :now",
    DONE: "state IN ('fraud', 'genuine')",
    HANDED_ON: "state = 'handed on'",
}
_FREE = "(lease_by IS NULL OR lease_by = :who OR lease_until <= :now)"
_FILTERS = (
    " AND (:decision IS NULL OR decision = :decision) AND expected_loss >= :min_loss"
    ' AND (:text IS NULL OR instr(lower(id || keys || "values"), lower(:text)) > 0)'
)
_RANK = " ORDER BY expected_loss DESC, raw_score DESC, id"


@dataclass(frozen=True, kw_only=True)
class CaseFilter:
    """Which cases a list shows."""

    state: str = OPEN
    decision: str | None = None
    min_loss: float = 0.0
    text: str | None = None
    """A part of the id, of a key or of a value."""


class CaseDatabase:
    """The file of the queue of one folder. Safe to use from several threads and processes."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the file, and create it if there is none. Raises OSError or sqlite3.Error."""
        self._path, self._clock = folder / FILE, clock
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, PRIVATE))
        self._lock = threading.Lock()
        self._link = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._link.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            self._link.execute(f"PRAGMA {pragma}")
        self._link.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._link.close()

    def add(self, cases: Iterable[Case]) -> None:
        """Add cases; those that are there already stay as they are."""
        rows = [_row(case) for case in cases]
        names = "id scored_at time amount raw_score percentile probability decision version arm degraded keys values"
        columns = [*names.split(), "expected_loss", "state"]
        listed = ", ".join(f'"{name}"' for name in columns)
        with self._lock, _transaction(self._link):
            self._link.executemany(
                f"INSERT OR IGNORE INTO cases ({listed}) VALUES ({', '.join(':' + name for name in columns)})", rows
            )

    def select(self, wanted: CaseFilter, who: str, limit: int) -> dict[str, Any]:
        """Cases by expected loss, the highest first.

        Returns:
            `cases`: at most `limit`; `total`: how many there are; `counts`: how many of each state, whatever the filters.
        """
        where = f"{_WHERE[wanted.state]}{_FILTERS}"
        parameters = self._parameters(wanted, who)
        with self._reading() as link:
            rows = link.execute(f"SELECT * FROM cases WHERE {where}{_RANK} LIMIT {limit:d}", parameters)
            cases = [_document(row, who, parameters["now"]) for row in rows]
            total = link.execute(f"SELECT count(*) FROM cases WHERE {where}", parameters).fetchone()[0]
            counts = {
                state: link.execute(f"SELECT count(*) FROM cases WHERE {clause}", parameters).fetchone()[0]
                for state, clause in _WHERE.items()
            }
        return {"cases": cases, "total": total, "counts": counts}

    def ids(self, wanted: CaseFilter, limit: int) -> list[str]:
        """The ids of at most `limit` cases, in the order of `select`."""
        where = f"{_WHERE[wanted.state]}{_FILTERS}"
        with self._reading() as link:
            rows = link.execute(
                f"SELECT id FROM cases WHERE {where}{_RANK} LIMIT {limit:d}", self._parameters(wanted, "")
            )
            return [row["id"] for row in rows]

    def cases(self, ids: Sequence[str], who: str) -> list[dict[str, Any]]:
        """The cases with these ids, in this order; those that are gone are left out."""
        now = self._clock()
        with self._reading() as link:
            marks = ", ".join("?" * len(ids))
            rows = {row["id"]: row for row in link.execute(f"SELECT * FROM cases WHERE id IN ({marks})", tuple(ids))}
        return [_document(rows[id_], who, now) for id_ in ids if id_ in rows]

    def claim(self, wanted: CaseFilter, who: str, seconds: float, id_: str | None = None) -> dict[str, Any] | None:
        """Lease a case, and give up what this analyst had leased before.

        Args:
            wanted: Without an id: the first of these that nobody else has.
            who: The analyst.
            seconds: How long the lease lasts.
            id_: The case.

        Returns:
            The case; None if there is none, or another analyst has it.
        """
        parameters = {**self._parameters(wanted, who), "id": id_}
        where = "id = :id" if id_ is not None else f"{_WHERE[wanted.state]}{_FILTERS}"
        with self._lock, _transaction(self._link):
            self._link.execute("UPDATE cases SET lease_by = NULL, lease_until = 0 WHERE lease_by = :who", parameters)
            row = self._link.execute(
                f"SELECT * FROM cases WHERE {where} AND {_FREE}{_RANK} LIMIT 1", parameters
            ).fetchone()
            if row is None:
                return None
            until = parameters["now"] + seconds
            self._link.execute("UPDATE cases SET lease_by = ?, lease_until = ? WHERE id = ?", (who, until, row["id"]))
            row = self._link.execute("SELECT * FROM cases WHERE id = ?", (row["id"],)).fetchone()
            return _document(row, who, parameters["now"])

    def get(self, id_: str, who: str) -> dict[str, Any] | None:
        """A case, whoever has it; None if there is none."""
        return next(iter(self.cases([id_], who)), None)

    def extend(self, id_: str, who: str, seconds: float) -> bool:
        """Lease a case, or extend the lease; False if another analyst has it or it is gone."""
        parameters = {"id": id_, "who": who, "now": self._clock(), "until": self._clock() + seconds}
        sql = f"UPDATE cases SET lease_by = :who, lease_until = :until WHERE id = :id AND {_FREE}"
        with self._lock, _transaction(self._link):
            return self._link.execute(sql, parameters).rowcount > 0

    def set_state(self, id_: str, state: str, who: str | None, at: float | None = None) -> None:
        """Close a case with a state, and end its lease. Nothing happens to a payment that is no case."""
        sql = (
            "UPDATE cases SET state = ?, changed_by = ?, changed_at = ?, lease_by = NULL, lease_until = 0, not_before = 0"
            " WHERE id = ?"
        )
        with self._lock, _transaction(self._link):
            self._link.execute(sql, (state, who, self._clock() if at is None else at, id_))

    def close_open(self, outcomes: Iterable[tuple[str, str, str | None, float]]) -> None:
        """Close open cases that have an outcome: id, state, who said so, and when. Others stay as they are."""
        sql = (
            "UPDATE cases SET state = :state, changed_by = :who, changed_at = :at, lease_by = NULL, lease_until = 0"
            f" WHERE id = :id AND {_WHERE[OPEN]}"
        )
        now = self._clock()
        rows = [{"id": id_, "state": state, "who": who, "at": at, "now": now} for id_, state, who, at in outcomes]
        with self._lock, _transaction(self._link):
            self._link.executemany(sql, rows)

    def put_off(self, id_: str, who: str, seconds: float) -> None:
        """Show a case again after this time, to whoever is there; its lease ends."""
        now = self._clock()
        sql = (
            "UPDATE cases SET state = 'open', not_before = ?, changed_by = ?, changed_at = ?, lease_by = NULL,"
            " lease_until = 0 WHERE id = ?"
        )
        with self._lock, _transaction(self._link):
            self._link.execute(sql, (now + seconds, who, now, id_))

    def newest(self) -> float | None:
        """When the newest case was scored, in epoch seconds."""
        with self._lock:
            value: float | None = self._link.execute("SELECT max(scored_at) FROM cases").fetchone()[0]
        return value

    def delete_before(self, moment: float) -> int:
        """Delete the cases that were scored before `moment`, in epoch seconds. Returns how many."""
        return self._delete("scored_at < ?", (moment,))

    def erase(self, history: str, key: str) -> int:
        """Delete the cases of a key. Nothing of them remains in the file. Returns how many."""
        of_key = (
            "EXISTS (SELECT 1 FROM json_each(keys) AS one WHERE json_extract(one.value, '$[0]') = ?"
            " AND json_extract(one.value, '$[1]') = ?)"
        )
        return self._delete(of_key, (history, key))

    def _delete(self, where: str, parameters: tuple[Any, ...]) -> int:
        with self._lock:
            with _transaction(self._link):
                count = self._link.execute(f"DELETE FROM cases WHERE {where}", parameters).rowcount
            if count:
                self._link.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own: reading many cases makes nobody wait who answers one."""
        link = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        link.row_factory = sqlite3.Row
        try:
            yield link
        finally:
            link.close()

    def _parameters(self, wanted: CaseFilter, who: str) -> dict[str, Any]:
        return {
            "now": self._clock(),
            "who": who,
            "decision": wanted.decision,
            "min_loss": wanted.min_loss,
            "text": wanted.text,
        }


@contextmanager
def _transaction(link: sqlite3.Connection) -> Iterator[None]:
    """A transaction that takes the write lock at once; rolled back at an error."""
    link.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        link.execute("ROLLBACK")
        raise
    link.execute("COMMIT")


def _row(case: Case) -> dict[str, Any]:
    return {
        **{name: getattr(case, name) for name in Case.__dataclass_fields__},
        "expected_loss": case.expected_loss,
        "keys": orjson.dumps(list(case.keys)).decode(),
        "values": orjson.dumps(dict(case.values), default=str).decode(),
        "state": OPEN,
    }


def _document(row: sqlite3.Row, who: str, now: float) -> dict[str, Any]:
    """A case as plain JSON values. Its keys as pairs of history and key."""
    fields = dict(row)
    keys, values = orjson.loads(fields.pop("keys")), orjson.loads(fields.pop("values"))
    holder, until, later = fields.pop("lease_by"), fields.pop("lease_until"), fields.pop("not_before")
    is_held = holder is not None and until > now
    return {
        **fields,
        "degraded": bool(fields["degraded"]),
        "keys": keys,
        "values": values,
        "held_by": holder if is_held else None,
        "is_mine": is_held and holder == who,
        "lease_until": until if is_held else None,
        "later_until": later if later > now else None,
    }
