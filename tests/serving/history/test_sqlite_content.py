"""The file of a SQLite store that another program overwrites while a process has it open."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tsa.errors import HistoryError, HistoryLost, HistoryUnavailable
from tsa.serving.history import sqlite_file, sqlite_rows
from tsa.serving.history.base import New, StoreKey, WriteBatch
from tsa.serving.history.sqlite import SQLiteStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SQLiteStore]:
    """A store whose file is compared at each use."""
    monkeypatch.setattr(sqlite_file, "CHECK_SECONDS", 0.0)
    with SQLiteStore(tmp_path / "x.db") as opened:
        for name in "abc":
            assert put(opened, name)
        yield opened


def put(store: SQLiteStore, name: str) -> bool:
    place: StoreKey = ("card", name)
    found = store.read([place]).get(place)
    return store.commit(WriteBatch(expected_versions={place: found and found.version}, puts={place: b"x" * 500}))


def names(store: SQLiteStore) -> list[str]:
    return [place[1] for place, _ in store.scan("card")]


def copied(store: SQLiteStore, to: Path) -> Path:
    with closing(sqlite3.connect(store._path)) as link, closing(sqlite3.connect(to)) as copy:
        link.backup(copy)
    return to


def overwrite(path: Path, source: Path) -> None:
    """As an operator does: another process, since closing the file would drop SQLite's locks in this one."""
    subprocess.run(["cp", source, path], check=True)


def adopted(path: Path) -> None:
    with SQLiteStore(path, new="adopt") as own:
        own.adopt()


def assert_sound(path: Path, expected: list[str]) -> None:
    """The file has these rows and no others, and nothing of the store that it replaced."""
    with closing(sqlite3.connect(path)) as link:
        assert link.execute("pragma integrity_check").fetchone() == ("ok",)
        assert [name for (name,) in link.execute("select name from blocks order by name")] == expected


def test_another_store(store: SQLiteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.db"
    with SQLiteStore(tmp_path / "y.db") as other:
        put(other, "of another store")
        copied(other, tmp_path / "copy.db")
    store._file.checkpoint()
    put(store, "d")
    overwrite(path, tmp_path / "copy.db")
    for _ in range(3):
        with pytest.raises(HistoryLost, match="replaced"):
            put(store, "e")
    assert "was overwritten by another program" in caplog.text
    assert_sound(path, ["of another store"])
    assert Path(f"{path}-wal{sqlite_file.STALE_SUFFIX}").stat().st_size
    adopted(path)
    assert put(store, "f")
    assert names(store) == ["f", "of another store"]


OTHER = """
import sys
from pathlib import Path
from tsa.errors import HistoryUnavailable
from tsa.serving.history import sqlite_file
from tsa.serving.history.base import WriteBatch
from tsa.serving.history.sqlite import SQLiteStore
sqlite_file.CHECK_SECONDS = 0.0
with SQLiteStore(Path(sys.argv[1])) as store:
    for line in sys.stdin:
        place = "card", line.strip()
        try:
            found = store.read([place]).get(place)
            made = store.commit(WriteBatch(expected_versions={place: found and found.version}, puts={place: b"x"}))
            store._file.checkpoint()
            print(made, flush=True)
        except HistoryUnavailable as error:
            print(error, flush=True)
"""


@pytest.fixture
def other_process(store: SQLiteStore, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Writes a name to the store, and returns what came of it."""
    words = [sys.executable, "-c", OTHER, str(tmp_path / "x.db")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def put(name: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield put
        process.stdin.close()
        assert process.wait(30) == 0


def test_an_earlier_copy(store: SQLiteStore, other_process: Callable[[str], str], tmp_path: Path) -> None:
    """In each of two processes."""
    path = tmp_path / "x.db"
    copied(store, tmp_path / "copy.db")
    assert put(store, "d")
    assert other_process("g") == "True"
    store._file.checkpoint()
    overwrite(path, tmp_path / "copy.db")
    with pytest.raises(HistoryLost, match="earlier state"):
        put(store, "e")
    assert "earlier state" in other_process("h")
    adopted(path)
    assert put(store, "f")
    assert other_process("i") == "True"
    assert names(store) == ["a", "b", "c", "f", "i"]
    store._file.checkpoint()
    assert_sound(path, ["a", "b", "c", "f", "i"])


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_no_database(store: SQLiteStore, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    store._file.checkpoint()
    overwrite(tmp_path / "x.db", tmp_path / "other")
    for _ in range(2):
        with pytest.raises(HistoryUnavailable):
            put(store, "d")


def test_a_copy_of_the_same_state_changes_nothing(store: SQLiteStore, tmp_path: Path) -> None:
    store._file.checkpoint()
    copied(store, tmp_path / "copy.db")
    overwrite(tmp_path / "x.db", tmp_path / "copy.db")
    assert put(store, "d")
    assert names(store) == ["a", "b", "c", "d"]


def test_a_commit_to_a_file_that_is_overwritten_meanwhile_is_not_acknowledged(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(store, tmp_path / "copy.db")
    put(store, "d")
    store._file.checkpoint()
    written = sqlite_rows.written

    def overwritten(*arguments: Any) -> bool:
        overwrite(tmp_path / "x.db", tmp_path / "copy.db")
        return written(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(sqlite_rows, "written", overwritten)
        assert not put(store, "e")
    with pytest.raises(HistoryLost, match="earlier state"):
        put(store, "e")


def test_what_other_processes_write_is_no_alarm(
    store: SQLiteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their checkpoints change the file as well, and an adopted store has another identity."""
    path = tmp_path / "x.db"
    with SQLiteStore(path) as other:
        for number in range(30):
            assert put(store if number % 2 else other, f"n{number % 4}")
            (other if number % 2 else store)._file.checkpoint()
        for _ in range(2):
            adopted(path)
            adopted(path)
            other._file.checkpoint()
            assert put(store, "d")
            assert put(other, "d")
    assert "overwritten" not in caplog.text
    assert not list(tmp_path.glob(f"*{sqlite_file.STALE_SUFFIX}"))


@pytest.mark.parametrize("new", ["make", "refuse", "adopt"])
def test_a_file_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path, new: New) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as link:
        link.execute("create table runs (name text)")
    before = path.read_bytes()
    with pytest.raises(HistoryError, match="tables of another program: runs"):
        SQLiteStore(path, new=new)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["other.db"]
