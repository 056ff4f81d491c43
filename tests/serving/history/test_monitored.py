"""Why histories cannot be read or written is logged when it changes, and a store that stalls is not waited for again and again."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.endpoint import SHOP
from support.history_case import RedisServer
from tsa.config.market import Market
from tsa.errors import HistoryUnavailable
from tsa.serving.history.base import PAYMENTS, REASONS, HistoryStore, StoreKey, WriteBatch
from tsa.serving.history.factory import open_history
from tsa.serving.history.monitored import SLOW_FAILURES, MonitoredStore
from tsa.serving.metrics import Metrics

A: StoreKey = (PAYMENTS, "a")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    if not RedisServer.installed():
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with RedisServer(tmp_path) as found:
        yield found


def put(store: HistoryStore, data: bytes = b"1", place: StoreKey = A) -> None:
    found = store.read([place]).get(place)
    assert store.commit(WriteBatch(expected_versions={place: found and found.version}, puts={place: data}))


def reason_of(store: HistoryStore, data: bytes = b"1", place: StoreKey = A) -> str:
    with pytest.raises(HistoryUnavailable) as refused:
        put(store, data, place)
    assert refused.value.reason in REASONS
    return refused.value.reason


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name == "tsa.serving.history.monitored"]
    caplog.clear()
    return found


def shop_metrics() -> Metrics:
    return Metrics(Market.from_dict(SHOP))


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None
    return found


def test_each_change_is_logged_once(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    metrics = shop_metrics()
    with MonitoredStore(open_history(server.url, 0.5), metrics) as store:
        put(store)
        server.client().config_set("maxmemory", "1mb")
        assert [reason_of(store) for _ in range(3)] == ["memory"] * 3
        (line,) = said(caplog)
        assert "cannot be written (memory)" in line
        assert "maxmemory" in line
        assert value(metrics, "tsa_history_failures_total", reason="memory") == 3
        server.client().config_set("maxmemory", "0")
        put(store)
        put(store)
        (line,) = said(caplog)
        assert "can be written again" in line
        server.kill()
        assert [reason_of(store) for _ in range(3)] == ["away"] * 3
        (line,) = said(caplog)
        assert "cannot be read (away)" in line
        server.start()
        put(store)
        (line,) = said(caplog)
        assert "can be read again" in line
        server.client().replicaof("127.0.0.1", "1")
        assert reason_of(store) == "read_only"
        server.client().replicaof("NO", "ONE")
        put(store)


def test_a_value_of_another_kind_is_damage(server: RedisServer) -> None:
    with open_history(server.url, 0.5) as store:
        put(store)
        client = server.client()
        (key,) = (key for key in client.keys("*") if key.endswith(b":" + A[1].encode()))
        client.delete(key)
        client.lpush(key, "x")
        assert reason_of(store) == "damaged"


def test_reasons_of_sqlite(tmp_path: Path) -> None:
    from tsa.serving.history.sqlite_store import SQLiteStore

    with SQLiteStore(tmp_path / "x.db", timeout_seconds=0.05) as store:
        put(store)
        with sqlite3.connect(tmp_path / "x.db", isolation_level=None) as other:
            other.execute("begin immediate")
            assert reason_of(store) == "locked"
            other.execute("rollback")
        with store._alone() as link:
            pages = link.execute("pragma max_page_count").fetchone()[0]
            link.execute("pragma max_page_count = 1")  # as a disk that is full
        assert reason_of(store, b"x" * 100_000, (PAYMENTS, "large")) == "disk_full"
        with store._alone() as link:
            link.execute(f"pragma max_page_count = {pages}")
        put(store, b"x" * 100_000, (PAYMENTS, "large"))


def test_a_store_that_stalls_is_not_waited_for(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    metrics = shop_metrics()
    with MonitoredStore(open_history(server.url, 0.15), metrics) as store:
        put(store)
        server.signal(signal.SIGSTOP)
        try:
            assert [reason_of(store) for _ in range(SLOW_FAILURES)] == ["slow"] * SLOW_FAILURES
            begun = time.monotonic()
            assert [reason_of(store) for _ in range(100)] == ["slow"] * 100
            assert time.monotonic() - begun < 0.1
            assert value(metrics, "tsa_history_circuit_open") == 1
            assert [text.partition(":")[0] for text in said(caplog)] == [
                "histories cannot be read (slow)",
                "the history store is not asked until it answers",
            ]
        finally:
            server.signal(signal.SIGCONT)
        for _ in range(100):
            if not value(metrics, "tsa_history_circuit_open"):
                break
            time.sleep(0.05)
        put(store)
        assert value(metrics, "tsa_history_circuit_open") == 0
        assert [text.partition(",")[0] for text in said(caplog)] == [
            "the history store answers and is asked again",
            "histories can be read again",
        ]


def test_a_lock_that_is_held_is_not_waited_for(tmp_path: Path) -> None:
    """Reads succeed in between, which does not count."""
    with MonitoredStore(open_history(f"sqlite:///{tmp_path / 'x.db'}", 0.15)) as store:
        put(store)
        other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
        other.execute("begin immediate")
        assert [reason_of(store) for _ in range(SLOW_FAILURES)] == ["locked"] * SLOW_FAILURES
        begun = time.monotonic()
        assert reason_of(store) == "locked"
        assert time.monotonic() - begun < 0.1
        other.execute("rollback")
        other.close()
        for _ in range(100):
            try:
                return put(store)
            except HistoryUnavailable:
                time.sleep(0.05)
        raise AssertionError("it is asked again")


def test_closing_ends_the_probing(server: RedisServer) -> None:
    store = MonitoredStore(open_history(server.url, 0.11))
    server.signal(signal.SIGSTOP)
    try:
        for _ in range(SLOW_FAILURES):
            reason_of(store)
        assert "history-probe" in {thread.name for thread in threading.enumerate()}
        store.close()
        assert "history-probe" not in {thread.name for thread in threading.enumerate()}
    finally:
        server.signal(signal.SIGCONT)
