"""More than one Redis: a failover, and a cluster."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from support.history_case import START, Case, RedisServer, answer_of, port_with_a_bus
from tsa.errors import HistoryUnavailable
from tsa.serving.history.base import PAYMENTS, WriteBatch
from tsa.serving.history.factory import open_history
from tsa.serving.scoring.scoring_service import ScoringService

pytestmark = pytest.mark.skipif(
    not RedisServer.installed(), reason="redis-server is not installed (Debian: apt-get install redis-server)"
)


class Address:
    """A port that leads to one server, and later to another; connections that are open stay where they are."""

    def __init__(self, port: int) -> None:
        self.leads_to = port
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self._open: list[socket.socket] = []
        self.port = self._listening.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.leads_to))
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """The first of two servers, and its replica."""
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    options = ("--repl-diskless-sync-delay", "0")
    with RedisServer(tmp_path / "1", *options) as first, RedisServer(tmp_path / "2", *options) as second:
        yield first, second


def replicated(first: Any, second: Any) -> None:
    """Wait until `second` has all that `first` has."""
    for _ in range(400):
        if second.info("replication").get("master_link_status") == "up" and first.dbsize() == second.dbsize():
            return
        time.sleep(0.02)
    raise AssertionError("not replicated")


def payment(at: float, id_: str) -> dict[str, Any]:
    return {"id": id_, "time": START + at, "card": "c1", "shop": "s1", "kind": "a", "amount": 5, "age": 1}


def test_a_failover_costs_no_payment(case: Case, two: tuple[RedisServer, RedisServer]) -> None:
    first, second = (server.client() for server in two)
    with Address(two[0].port) as address, open_history(f"redis://127.0.0.1:{address.port}/0", 2.0) as store:
        scoring_service = ScoringService(case.scorer(), store)
        answer_of(scoring_service.score([payment(0, "a")])[0])
        second.replicaof("127.0.0.1", str(two[0].port))
        replicated(first, second)
        second.replicaof("NO", "ONE")
        first.replicaof("127.0.0.1", str(two[1].port))
        address.leads_to = two[1].port
        answer_of(scoring_service.score([payment(1, "b")])[0])  # over the open connection it would be READONLY
        assert answer_of(scoring_service.score([payment(0, "a")])[0]).replayed
        assert second.exists("{tsa}::b")


def test_a_failover_to_an_empty_replica_is_noticed(case: Case, two: tuple[RedisServer, RedisServer]) -> None:
    with Address(two[0].port) as address, open_history(f"redis://127.0.0.1:{address.port}/0", 2.0) as store:
        scoring_service = ScoringService(case.scorer(), store)
        answer_of(scoring_service.score([payment(0, "a")])[0])
        two[0].kill()
        address.leads_to = two[1].port
        found = [scoring_service.score([payment(1, "b")])[0] for _ in range(3)]
        assert [getattr(one, "rule", "scored") for one in found] == ["history_lost"] * 3
        two[0].start()
        address.leads_to = two[0].port
        two[1].kill()
        answer_of(scoring_service.score([payment(1, "b")])[0])  # it is back as it was: nobody need say so


def test_a_cluster(case: Case, tmp_path: Path) -> None:
    """Any node will do as address, also one that does not have the store's slot."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(2):
            (tmp_path / str(number)).mkdir()
            port = port_with_a_bus()
            server = RedisServer(tmp_path / str(number), "--cluster-enabled", "yes")
            server.port = port
            servers.append(stack.enter_context(server))
        one, other = (server.client() for server in servers)
        one.execute_command("CLUSTER ADDSLOTSRANGE 0 8191")
        other.execute_command("CLUSTER ADDSLOTSRANGE 8192 16383")
        other.execute_command(f"CLUSTER MEET 127.0.0.1 {servers[0].port}")
        for _ in range(1000):
            if all(client.cluster("info")["cluster_state"] == "ok" for client in (one, other)):
                break
            time.sleep(0.02)
        for number, server in enumerate(servers):
            with open_history(server.url, 2.0) as store:
                scoring_service = ScoringService(case.scorer(), store)
                answer_of(scoring_service.score([payment(number, f"p{number}")])[0])
                assert len(list(store.scan(PAYMENTS))) == number + 1
                store.compact()
        holder, free = (one, other) if one.dbsize() else (other, one)
        assert free.dbsize() == 0
        with open_history(servers[0].url, 2.0) as store:
            holder.flushall()
            with pytest.raises(HistoryUnavailable, match="emptied or replaced"):
                store.read([(PAYMENTS, "p0")])
        with open_history(servers[1].url, 2.0, new="adopt") as store:
            store.adopt()
            assert store.commit(WriteBatch(expected_versions={("card", "c"): None}, puts={("card", "c"): b"1"}))
