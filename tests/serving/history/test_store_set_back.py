"""A store that was set back by a few changes, and written to again by others, before those look at it whose changes are gone."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from support.history_case import RedisServer
from tsa.errors import HistoryLost
from tsa.serving.history.base import HistoryStore, StoreKey, WriteBatch
from tsa.serving.history.factory import open_history
from tsa.serving.history.sqlite_file import CHECK_SECONDS


def put(store: HistoryStore, name: str) -> None:
    place: StoreKey = ("card", name)

    def made() -> bool:
        found = store.read([place]).get(place)
        return store.commit(WriteBatch(expected_versions={place: found and found.version}, puts={place: b"x"}))

    assert made() or made(), "the first one may have met a file that was replaced"


def look() -> None:
    """The file is not looked at with every read."""
    time.sleep(2 * CHECK_SECONDS)


def set_back(url: str, folder: Path, server: Any, at: dict[str, Any]) -> None:
    """Remember how the store is, or, the second time, make it so again."""
    if not url.startswith("sqlite"):
        if at:
            server.flushall()
            for key, value in at.items():
                server.restore(key, 0, value)
        else:
            at.update({key.decode(): server.dump(key) for key in server.keys("*")})
        return
    path = Path(url.removeprefix("sqlite:///"))
    if at:
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        shutil.move(folder / "copy.db", path)
    else:
        with sqlite3.connect(path) as link, sqlite3.connect(folder / "copy.db") as copy:
            link.backup(copy)
        at["made"] = True


@pytest.mark.parametrize("others", [1, 2, 5])
def test_a_change_that_is_gone_is_missed_by_who_made_it(
    history_url: str, tmp_path: Path, others: int, request: pytest.FixtureRequest
) -> None:
    server: Any = None
    if history_url.startswith("redis"):
        found: RedisServer = request.getfixturevalue("redis_server")
        server = found.client()
    before: dict[str, Any] = {}
    with open_history(history_url) as one, open_history(history_url) as other:
        for number in range(3):
            put(one, f"a{number}")
            put(other, f"b{number}")
        set_back(history_url, tmp_path, server, before)
        put(one, "gone")
        set_back(history_url, tmp_path, server, before)
        look()
        for number in range(others):
            put(other, f"c{number}")  # it has not seen the change that is gone
        look()
        with pytest.raises(HistoryLost, match="earlier state"):
            one.read([("card", "gone")])
        with pytest.raises(HistoryLost):
            other.read([("card", "gone")])
        with open_history(history_url, new="adopt") as own:
            own.adopt()
        for store in (one, other):
            put(store, "d")


def test_marks_of_others_are_none_of_ours(history_url: str) -> None:
    with open_history(history_url) as one, open_history(history_url) as other:
        put(one, "a")
        for number in range(1100):
            put(other, f"b{number % 3}")
        put(one, "c")
        put(other, "c")


def test_two_workers_open_a_new_store_one_after_the_other(tmp_path: Path) -> None:
    """Both see a sound file, however early the second one looks."""
    for number in range(30):
        url = f"sqlite:///{tmp_path}/{number}.db"
        with open_history(url) as one, open_history(url) as other:
            put(one, "a")
            put(other, "b")


def test_a_log_that_was_left_beside_another_file_is_put_aside(tmp_path: Path) -> None:
    """SQLite finds a log by its name alone, and would mix the two."""
    path = tmp_path / "x.db"
    with open_history(f"sqlite:///{path}") as store:
        put(store, "a")
        with sqlite3.connect(path) as link, sqlite3.connect(tmp_path / "copy.db") as copy:
            link.backup(copy)
        put(store, "b")
        shutil.move(tmp_path / "copy.db", path)
        look()
        with pytest.raises(HistoryLost, match="earlier state"):
            store.read([("card", "a")])
    assert (tmp_path / "x.db-wal.of-another-file").stat().st_size
    with open_history(f"sqlite:///{path}", new="adopt") as store:
        store.adopt()
        assert [place for place, _ in store.scan("card")] == [("card", "a")]


def test_a_log_whose_file_was_removed_does_not_stop_an_adoption(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with open_history(f"sqlite:///{path}") as store:
        put(store, "a")
        path.unlink()
        with open_history(f"sqlite:///{path}", new="adopt") as own:
            own.adopt()  # at once: until it looks, `store` reads what was removed
        put(store, "b")
        assert store.read([("card", "a")]) == {}
        assert store.read([("card", "b")]).keys() == {("card", "b")}
