"""Both engines keep the same promises: changes are whole, checked against what was seen, and there for other processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.count_up import count_up
from support.history_case import RedisServer
from tsa.errors import ConfigError, HistoryUnavailable
from tsa.serving.history.base import METADATA, PAYMENTS, HistoryStore, StoreKey, WriteBatch
from tsa.serving.history.factory import open_history

A, B, BLOCK = (PAYMENTS, "a"), (PAYMENTS, "b\0é"), ("card", "a")


@pytest.fixture
def store(history_url: str):  # type: ignore[no-untyped-def]
    with open_history(history_url) as opened:
        yield opened


def put(store: HistoryStore, place: StoreKey, data: bytes) -> None:
    found = store.read([place]).get(place)
    assert store.commit(WriteBatch(expected_versions={place: found and found.version}, puts={place: data}))


def test_read_and_commit(store: HistoryStore) -> None:
    assert store.read([]) == {}
    assert store.read([A, B, BLOCK]) == {}
    values = {A: b"1", B: b"\0\xff", BLOCK: b"x" * 10_000, (METADATA, "n"): b"{}"}
    assert store.commit(WriteBatch(expected_versions=dict.fromkeys(values), puts=values))
    found = store.read(list(values))
    assert {place: stored.data for place, stored in found.items()} == values
    assert len({stored.version for stored in found.values()}) == 1
    put(store, A, b"2")
    assert store.read([A])[A].data == b"2"
    assert store.read([A])[A].version != found[A].version


@pytest.mark.parametrize("moved", [A, BLOCK, (PAYMENTS, "new"), ("card", "gone")])
def test_nothing_is_changed_where_something_moved_on(store: HistoryStore, moved: StoreKey) -> None:
    for place in (A, BLOCK, ("card", "gone")):
        put(store, place, b"old")
    places = [A, BLOCK, (PAYMENTS, "new"), ("card", "gone"), (PAYMENTS, "looked at")]
    seen = {place: stored.version for place, stored in store.read(places).items()}
    change = WriteBatch(
        expected_versions={place: seen.get(place) for place in places},
        puts={A: b"new", BLOCK: b"new", (PAYMENTS, "new"): b"new"},
        deletes=frozenset({("card", "gone")}),
    )
    put(store, moved, b"others")
    before = store.read(places)
    assert not store.commit(change)
    assert store.read(places) == before


def test_a_place_that_is_only_seen_counts_too(store: HistoryStore) -> None:
    put(store, A, b"1")
    stale = store.read([A])[A].version
    put(store, A, b"2")
    assert not store.commit(WriteBatch(expected_versions={A: stale, B: None}, puts={B: b"1"}))
    assert not store.commit(WriteBatch(expected_versions={A: None, B: None}, puts={B: b"1"}))
    assert store.read([B]) == {}
    with pytest.raises(ValueError, match="must contain every key that is written"):
        WriteBatch(expected_versions={}, puts={A: b"1"})


def test_drop_and_scan(store: HistoryStore) -> None:
    places = {("card", f"k*{n}"): str(n).encode() for n in range(1500)}
    assert store.commit(WriteBatch(expected_versions=dict.fromkeys(places), puts=places))
    put(store, ("card2", "x"), b"")
    put(store, A, b"1")
    assert {place: stored.data for place, stored in store.scan("card")} == places
    assert [place for place, _ in store.scan(PAYMENTS)] == [A]
    some = dict(list(places.items())[:700])
    seen = {place: stored.version for place, stored in store.read(list(some)).items()}
    assert store.commit(WriteBatch(expected_versions=seen, deletes=frozenset(some)))
    assert len(list(store.scan("card"))) == 800
    store.compact()


def test_counting_up_from_threads_and_processes(history_url: str) -> None:
    """Two threads and two processes add 100 each, to one place: none is lost."""
    command = [sys.executable, "-m", "support.count_up", history_url]
    with open_history(history_url) as store:
        others = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2)]
        threads = [threading.Thread(target=count_up, args=(store,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [other.wait() for other in others] == [0, 0]
        assert store.read([A])[A].data == b"400"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("histories.db", "must be like sqlite:///"),
        ("mysql://x/y", "must be like sqlite:///"),
        ("sqlite://histories.db", "must be like sqlite:///"),
        ("sqlite:///x.db?sync=1", r"must be of .*synchronous.*\(got \['sync'\]\)"),
        ("sqlite:///x.db?synchronous=off", "must be normal or full"),
        ("sqlite:///x.db?timeout_seconds=no", "timeout_seconds must be a number"),
        ("sqlite:///what?.db", "must be name=value"),
        ("sqlite:///a?b=1.db", "must be of"),
        ("sqlite:///a\nb.db", "must be like sqlite:///"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite+x:///x.db", "must be like sqlite:///"),
        ("redis://localhost:6379/0?wrong=1", "must be like redis://"),
        ("redis://localhost:6379/zero", "a database number"),
        ("redis://localhost:port/0", "port must be a number"),
    ],
)
def test_urls(url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        open_history(url)


def test_sqlite_settings(tmp_path: Path) -> None:
    with open_history(f"sqlite:///{tmp_path / 'a b.db'}?synchronous=full&timeout_seconds=0.1") as store:
        put(store, A, b"1")
    assert (tmp_path / "a b.db").is_file()
    (tmp_path / "text.db").write_text("not a database" * 100)
    for name in ("text.db", "no/folder.db"):
        with pytest.raises(HistoryUnavailable, match=r"does not (answer|exist)"):
            open_history(f"sqlite:///{tmp_path / name}")


def test_a_locked_file_is_unavailable(tmp_path: Path) -> None:
    import sqlite3

    with open_history(f"sqlite:///{tmp_path / 'x.db'}?timeout_seconds=0.05") as store:
        other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
        other.execute("begin immediate")
        with pytest.raises(HistoryUnavailable, match="locked"):
            put(store, A, b"1")
        other.execute("rollback")
        put(store, A, b"1")


def test_a_server_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    if not RedisServer.installed():
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with RedisServer(tmp_path) as server, open_history(server.url, 0.5) as store:
        put(store, A, b"1")
        server.kill()
        with pytest.raises(HistoryUnavailable, match="does not answer"):
            store.read([A])
        server.start()
        assert store.read([A])[A].data == b"1"
    with pytest.raises(HistoryUnavailable):
        open_history(server.url, 0.2)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:hunter2@10.0.0.1:26379/mymaster/0",
        "reddis://:hunter2@127.0.0.1/0",
        "hunter2@127.0.0.1",
        "redis://:hunter2#more@127.0.0.1:6379/0",
        "redis://:hunter2?more=1@127.0.0.1:6379/0",
        "redis://:more?hunter2=1@127.0.0.1:6379/0",
        "redis://:more/hunter2@127.0.0.1:6379/0",
        "redis://:more@hunter2@127.0.0.1:6379/0",
        "redis://:hunter2",
        "redis://:hunter2@127.0.0.1:1/zero",
        "redis://:hunter2@127.0.0.1:1/0?timeout_seconds=hunter2",
        "redis://:hunter2@127.0.0.1:1/0?socket_timeout=hunter2",
        "redis://:hunter2@127.0.0.1:1/0?wrong=hunter2",
        "redis://user:hunter2@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=hunter2",
        "rediss://:hunter2@127.0.0.1:1/0",
        "unix://:hunter2@/no/such.sock",
        "sqlite://:hunter2@host/x.db",
        "mysql://user:hunter2@host/x",
    ],
)
def test_secrets_are_in_no_message(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((ConfigError, HistoryUnavailable)) as refused:
        open_history(url, 0.2)
    error: BaseException | None = refused.value
    assert "hunter2" not in str(error) + caplog.text
    while error is not None and not error.__suppress_context__:  # what a traceback shows
        error = error.__cause__
        assert "hunter2" not in str(error)


def test_secrets_are_not_in_the_list_of_processes(tmp_path: Path) -> None:
    listed = Path("/proc/self/cmdline")
    if not listed.exists():
        pytest.skip("the list of processes is that of Linux")
    with socket.socket() as silent:  # takes the connection and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://user:hunter2@127.0.0.1:{silent.getsockname()[1]}/0?timeout_seconds=30"
        command = [sys.executable, "-m", "tsa", "history", "show", "--history", url]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            silent.settimeout(60)
            silent.accept()
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.kill()
            process.communicate()
    assert b"hunter2" not in shown
    assert b"redis://************@127.0.0.1" in shown


@pytest.mark.parametrize("name", ["a#b.db", "50%.db", "%41.db", "a b&c=d;.db", "é.db"])
def test_paths_are_taken_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with open_history(f"sqlite:///{name}") as store:
        monkeypatch.chdir("/")
        put(store, A, b"1")
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    with open_history(f"sqlite:///{tmp_path / name}", new="refuse") as store:
        assert store.read([A])[A].data == b"1"
