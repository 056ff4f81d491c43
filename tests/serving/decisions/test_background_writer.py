"""The log of decisions: journals become Parquet, nothing waits for it, what is lost is counted, and killed servers lose nothing."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsa.errors import ConfigError, DataError
from tsa.serving.decisions import background_writer
from tsa.serving.decisions.background_writer import DecisionLog, rotate_all
from tsa.serving.decisions.entries import DECISIONS, OUTCOMES, TABLES, line_of, outcome_entry
from tsa.serving.decisions.journal import FOLDER, Journal, journals
from tsa.serving.decisions.parquet_files import delete_before, read_table, rewrite, table_files

DAY = 86_400


def entries(n: int, first: int = 0) -> list[dict[str, Any]]:
    return [outcome_entry(f"p{at}", at % 2 == 0, 1.5e9 + at, None) for at in range(first, first + n)]


def ids(folder: Path, table: str = OUTCOMES) -> list[str]:
    return read_table(folder, table)["id"].to_list()


def wait_for(folder: Path, n: int) -> None:
    end = time.monotonic() + 10
    while len(ids(folder)) < n:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("sync", [False, True])
def test_entries_can_be_read_before_and_after_they_are_parquet(tmp_path: Path, sync: bool) -> None:
    counts = {"logged": 0, "lost": 0}
    own = DecisionLog(tmp_path, sync=sync, logged=lambda n: counts.update(logged=counts["logged"] + n))
    own.record(entries(5))
    if sync:
        assert len(ids(tmp_path)) == 5  # at once
    own.record_soon(entries(2, 5))
    wait_for(tmp_path, 7)
    assert table_files(tmp_path, OUTCOMES) == []
    own.close()
    assert ids(tmp_path) == [f"p{at}" for at in range(7)]
    assert journals(tmp_path) == []
    (path,) = table_files(tmp_path, OUTCOMES)
    assert path.parent.name == f"day={datetime.now(UTC).date()}"
    assert path.stat().st_mode & 0o077 == 0
    read = pl.read_parquet(path, hive_partitioning=False)
    assert read.schema == pl.Schema(TABLES[OUTCOMES])
    assert read["known_at"].dt.epoch("s").to_list() == [1_500_000_000 + at for at in range(7)]
    assert counts == {"logged": 7, "lost": 0}


def test_days_are_separate_and_old_ones_are_deleted(tmp_path: Path) -> None:
    journal, now = Journal(tmp_path), time.time()
    for at, age in enumerate((0.0, 3.2 * DAY, 40 * DAY)):
        journal.append(line_of({**entries(1, at)[0], "at": now - age}))
    journal.close()
    assert rotate_all(tmp_path)
    assert ids(tmp_path) == ["p2", "p1", "p0"]
    assert read_table(tmp_path, OUTCOMES, since=now - 4 * DAY, until=now - DAY)["id"].to_list() == ["p1"]
    assert delete_before(tmp_path, now - 30 * DAY) == 1
    assert ids(tmp_path) == ["p1", "p0"]
    assert len(list((tmp_path / OUTCOMES).iterdir())) == 2


def test_retention_is_applied_while_a_server_runs(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(line_of({**entries(1)[0], "at": time.time() - 40 * DAY}))
    journal.close()
    DecisionLog(tmp_path, retention_seconds=30 * DAY).close()
    assert ids(tmp_path) == []


def test_a_journal_of_a_killed_process_is_taken_over_without_its_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(line_of(entries(1)[0]))
    journal.append(b'{"table": "outc')
    journal.close()
    assert ids(tmp_path) == ["p0"]
    DecisionLog(tmp_path).close()
    assert journals(tmp_path) == []
    assert ids(tmp_path) == ["p0"]


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(line_of(entries(1)[0]) + b"\0\0\0\0\n" + line_of(entries(1, 1)[0]))
    journal.close()
    assert ids(tmp_path) == ["p0", "p1"]
    assert rotate_all(tmp_path)
    assert ids(tmp_path) == ["p0", "p1"]


def test_a_conversion_that_was_interrupted_is_repeated_without_doubles(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(b"".join(map(line_of, entries(3))))
    copy = journal.path.read_bytes()
    journal.close()
    assert rotate_all(tmp_path)
    journal.path.write_bytes(copy)  # as if the process had ended before it deleted the journal
    assert len(ids(tmp_path)) == 3
    assert rotate_all(tmp_path)
    assert len(ids(tmp_path)) == 3


def test_a_journal_in_use_is_left_alone_until_its_process_is_asked(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(line_of(entries(1)[0]))
    assert not rotate_all(tmp_path, within=0.3)
    assert journals(tmp_path) == [journal.path]
    journal.close()
    own = DecisionLog(tmp_path)
    own.record(entries(1, 1))
    wait_for(tmp_path, 2)
    assert rotate_all(tmp_path)
    assert table_files(tmp_path, OUTCOMES)
    own.close()
    assert sorted(ids(tmp_path)) == ["p0", "p1"]


def test_a_full_queue_loses_and_counts_and_never_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_writer, "MAX_WAITING", 10)
    lost: list[int] = []
    own = DecisionLog(tmp_path, lost=lost.append)
    with own._lock:  # a disk that does not answer
        begun = time.monotonic()
        for _ in range(50):
            own.record(entries(1))
        assert time.monotonic() - begun < 1
    own.close()
    assert sum(lost) >= 50 - 10 - 10  # those in the queue, and those that the thread had taken
    assert len(ids(tmp_path)) == 50 - sum(lost)


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    own = DecisionLog(tmp_path, sync=True, lost=lost.append)
    own.record(entries(1))
    write = os.write

    def half(file: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) // 2])

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            own.record(entries(4, 1))
    assert lost == [4]
    own.record(entries(1, 9))
    own.close()
    assert ids(tmp_path) == ["p0", "p9"]


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(OSError):
        DecisionLog(tmp_path / "log")


def test_rewriting_deletes_entries_and_empty_files(tmp_path: Path) -> None:
    own = DecisionLog(tmp_path)
    own.record(entries(4))
    own.close()
    assert rewrite(tmp_path, {OUTCOMES: pl.col("id") != "p1"}) == {OUTCOMES: 1}
    assert ids(tmp_path) == ["p0", "p2", "p3"]
    rewrite(tmp_path, {OUTCOMES: pl.lit(False)})
    assert table_files(tmp_path, OUTCOMES) == []


def test_other_folders_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--decision-log"):
        read_table(tmp_path, DECISIONS)
    (tmp_path / FOLDER).mkdir()
    assert read_table(tmp_path, DECISIONS).schema == pl.Schema(TABLES[DECISIONS])
    path = tmp_path / DECISIONS / "day=2025-01-01" / "x.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no Parquet")
    with pytest.raises(DataError, match=r"x\.parquet"):
        read_table(tmp_path, DECISIONS)
