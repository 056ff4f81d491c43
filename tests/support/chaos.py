"""A server with two workers under constant load, and what breaks it: clients, processes, stores and their disk.

Clients keep what was answered. `Chaos.check` compares it with offline scores of the acknowledged payments and with the store.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import torch

from support.endpoint import TSA
from support.history_case import (
    Case,
    RedisServer,
    Row,
    assert_nothing_lost,
    in_time,
    port_with_a_bus,
    random_rows,
    request,
)
from tsa.inference.scorer import Scorer
from tsa.serving.history.base import PAYMENTS
from tsa.serving.history.factory import open_history

DEADLINE_SECONDS = 5.0
"""What clients send as X-Deadline-Ms: by then a payment must have been begun."""
WITHIN_SECONDS = 10.0
"""A request that has no answer by then hangs: after its deadline come at most a read and a write of the store, a second each."""
PACE_SECONDS = 0.03
REFUSED = {"history_unavailable", "history_lost", "stopping", "queue_full", "deadline"}
DISK_BYTES = 48 * 2**20


def until(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


class Client(threading.Thread):
    """Sends a log of its own in time order, outcomes when they become known, and each again until it is acknowledged."""

    def __init__(self, name: str, seed: int, url: str, go: threading.Event) -> None:
        super().__init__(name=f"client-{name}", daemon=True)
        self.rows: list[Row] = []
        for row in random_rows(6000, seed, cards=8, shops=4):
            self.rows.append(
                {**row, **{at: f"{name}{row[at]}" for at in ("id", "card", "shop") if row[at] is not None}}
            )
        self._url, self._go, self._ended = url, go, threading.Event()
        self._steps: Iterator[tuple[str, Row]] = iter(())
        self.told: set[str] = set()
        """Payments whose outcome was acknowledged."""
        self.answers: dict[str, dict[str, Any]] = {}
        """The first answer to each payment that the store is to have."""
        self.counts: Counter[str] = Counter()
        """Answered and refused requests by rule; "none" for connections that broke."""
        self.wrong: list[str] = []
        self.postponed: list[tuple[str, Row]] | None = None
        """While degraded answers are expected: what is to be sent again, in order; None at other times."""
        self.slowest, self.acknowledged, self.idle = 0.0, 0, threading.Event()

    def run(self) -> None:
        self._steps = self._all_steps()
        with httpx.Client(base_url=self._url, timeout=WITHIN_SECONDS) as http:
            for what, row in self._steps:
                while not self._ended.is_set() and not self._paused() and not self._done(http, what, row):
                    time.sleep(0.1)
                if self._ended.wait(PACE_SECONDS):
                    return
        self.wrong.append(f"{self.name} has no more payments to send")

    def end(self) -> None:
        self._ended.set()

    def forget(self, held: set[str]) -> None:
        """Of an adopted store: what it does not hold is not expected of it; outcomes it may lack are told again."""
        self.answers = {id_: answer for id_, answer in self.answers.items() if id_ in held}

    def retell(self, http: httpx.Client) -> None:
        for row in self.rows:
            if row["id"] in self.answers and row["id"] in self.told:
                until(lambda row=row: self._done(http, "outcome", row), "an outcome is taken")  # type: ignore[misc]

    def catch_up(self, http: httpx.Client) -> None:
        """Send again, in order, what got degraded answers, or none: the store is back."""
        steps, self.postponed = self.postponed or [], None
        for what, row in steps:
            until(lambda what=what, row=row: self._done(http, what, row), "a payment is scored with its history")  # type: ignore[misc]

    def _is_postponed(self, row: Row) -> bool:
        return any(what == "score" and other["id"] == row["id"] for what, other in self.postponed or ())

    def _all_steps(self) -> Iterator[tuple[str, Row]]:
        for at, (row, told) in enumerate(in_time(self.rows)):
            for earlier in told:
                if earlier["id"] in self.answers or self._is_postponed(earlier):
                    yield "outcome", earlier
            yield "score", row
            if at % 5 == 4 and self.answers:
                yield "again", self.rows[at - 3]

    def _paused(self) -> bool:
        if not self._go.is_set():
            self.idle.set()
            while not self._go.wait(0.2) and not self._ended.is_set():
                pass
            self.idle.clear()
        return self._ended.is_set()

    def _done(self, http: httpx.Client, what: str, row: Row) -> bool:
        id_ = row["id"]
        if what != "score" and id_ not in self.answers:
            if what == "outcome" and self.postponed is not None and self._is_postponed(row):
                self.postponed.append((what, row))
            return True  # of a store that was lost, and adopted without it
        if what == "outcome":
            found = self._post(http, "/v1/outcome", {"id": id_, "fraud": bool(row["fraud"]), "at": row["reported"]})
            if found is None and self.postponed is not None:
                self.postponed.append((what, row))
            if found is not None:
                self.told.add(id_)
            return found is not None or self.postponed is not None
        found = self._post(http, "/v1/score", request(row))
        if found is None:
            return False
        if found["degraded"] and self.postponed is not None:
            self.counts["degraded"] += 1
            if what == "score":
                self.postponed.append((what, row))
            return True
        first = self.answers.setdefault(id_, found)
        if found["degraded"] or found["raw_score"] != first["raw_score"]:
            self.wrong.append(f"{id_}: {found} after {first}")
        if what == "again" and not found["replayed"]:
            self.wrong.append(f"{id_} was acknowledged, and is not known any more")
        self.acknowledged += 1
        return True

    def _post(self, http: httpx.Client, path: str, body: Row) -> dict[str, Any] | None:
        begun = time.monotonic()
        try:
            answer = http.post(path, json=body, headers={"X-Deadline-Ms": str(int(DEADLINE_SECONDS * 1000))})
        except httpx.ReadTimeout:
            self.wrong.append(f"{path} {body['id']}: no answer within {WITHIN_SECONDS:g} s")
            return None
        except httpx.TransportError:
            self.counts["none"] += 1
            return None
        self.slowest = max(self.slowest, time.monotonic() - begun)
        found: dict[str, Any] = answer.json()
        rule = found.get("rule", "") if answer.status_code != 200 else "answered"
        self.counts[rule] += 1
        if answer.status_code == 200:
            return found
        if rule not in REFUSED:
            self.wrong.append(f"{path} {body['id']}: {answer.status_code} {answer.text}")
        return None


class Process:
    """`tsa serve` with two workers in a session of its own, by which all its processes are found."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.log_file = bundle, folder / "server.log"
        self.log_file.touch()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.sessions: list[int] = []

    def start(self, history: str, *options: object) -> None:
        words = [TSA, "serve", self.bundle, "--history", history, "--port", self.port, "--workers", 2, *options]
        words += ["--drain-seconds", 0.3, "--allow-unevaluated"]
        with self.log_file.open("a") as log:
            self.parent = subprocess.Popen([str(word) for word in words], stderr=log, start_new_session=True)
        self.sessions.append(self.parent.pid)
        until(lambda: self.answers() or self.parent.poll() is not None, "the server is up", 120)
        assert self.parent.poll() is None, self.log()[-2000:]
        until(lambda: self.parent.poll() is not None or len(self.workers()) == 2, "both workers are there")

    def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ping", timeout=5).status_code == 200
        return False

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def workers(self) -> list[int]:
        return [pid for pid in _of_session(self.parent.pid) if b"spawn_main" in _file(pid, "cmdline")]

    def left(self) -> list[int]:
        """Processes of any server that was started here."""
        return [pid for session in self.sessions for pid in _of_session(session)]

    def metrics(self) -> dict[str, float]:
        """Values by name and labels, of all workers together."""
        with contextlib.suppress(httpx.TransportError):
            lines = httpx.get(f"{self.url}/metrics", timeout=WITHIN_SECONDS).text.splitlines()
            pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            return {name: float(value) for name, value in pairs}
        return {}


def _file(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _of_session(session: int) -> list[int]:
    found = []
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()):
        fields = _file(pid, "stat").rpartition(b")")[2].split()
        if len(fields) > 3 and int(fields[3]) == session and fields[0] != b"Z":
            found.append(pid)
    return found


class Proxy:
    """A port that leads to one Redis, and later to another; connections that are open stay where they are."""

    def __init__(self, port: int) -> None:
        self.leads_to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for one in (self._listening, *self._open):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listening.accept()[0]
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.leads_to))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class SQLite:
    """A history store in a file."""

    name = "sqlite"

    def __init__(self, disk: Path) -> None:
        self.path = disk / "histories.db"
        self.url = f"sqlite:///{self.path}"

    @property
    def files(self) -> list[Path]:
        return [Path(f"{self.path}{end}") for end in ("", "-wal", "-shm")]

    def copy(self, to: Path) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as link, contextlib.closing(sqlite3.connect(to)) as copy:
            link.backup(copy)

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Another process holds the lock of those who write."""
        with contextlib.closing(sqlite3.connect(self.path, 20, isolation_level=None)) as link:
            link.execute("begin immediate")
            yield
            link.execute("rollback")

    def repaired(self) -> None:
        """Nothing to start again."""

    def close(self) -> None:
        """Nothing to end."""


class Redis:
    """A history store in Redis behind an address, and a second server to take its place."""

    name = "redis"

    def __init__(self, disk: Path, folder: Path) -> None:
        self.servers = []
        for at, place in enumerate((disk / "redis", folder / "second")):
            place.mkdir()
            self.servers.append(RedisServer(place, "--repl-diskless-sync-delay", "0"))
            self.servers[at].start()
        self.first, self.second = self.servers
        self.proxy = Proxy(self.first.port)
        self.url = f"redis://127.0.0.1:{self.proxy.port}/0"

    def swap(self) -> None:
        """The address leads to the other server from now on."""
        self.first, self.second = self.second, self.first
        self.proxy.leads_to = self.first.port

    def follow(self) -> None:
        """The second server becomes a replica that has everything."""
        second = self.second.client()
        second.replicaof("127.0.0.1", str(self.first.port))
        until(lambda: second.info("replication").get("master_link_status") == "up", "the replica is there")

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        self.first.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.first.signal(signal.SIGCONT)

    def repaired(self) -> None:
        """Start the server again where it has ended."""
        if self.first.ended():
            self.first.start()

    def close(self) -> None:
        self.proxy.close()
        for server in self.servers:
            server.signal(signal.SIGCONT)
            server.kill()


class Cluster:
    """A history store in a cluster of two nodes. The address is the one that does not hold the store's slot at first."""

    name = "cluster"

    def __init__(self, folder: Path) -> None:
        self.servers = []
        for at in range(2):
            place = folder / f"node{at}"
            place.mkdir()
            server = RedisServer(place, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            server.port = port_with_a_bus()
            server.start()
            self.servers.append(server)
        self.slot = int(self.servers[0].client().execute_command("CLUSTER KEYSLOT", "{tsa}"))
        halves = [(0, 8191), (8192, 16383)]
        for server, (first, last) in zip(self.servers, halves, strict=True):
            server.client().execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        self.holder = self.servers[self.slot > 8191]
        self.servers[0].client().execute_command("CLUSTER MEET", "127.0.0.1", self.servers[1].port)
        self.is_up()
        self.url = f"redis://127.0.0.1:{self.other.port}/0"

    @property
    def other(self) -> RedisServer:
        """The node that does not hold the store."""
        return next(server for server in self.servers if server is not self.holder)

    def is_up(self) -> None:
        """Wait until both nodes say so."""
        clients = [server.client() for server in self.servers]
        until(lambda: all(one.cluster("info")["cluster_state"] == "ok" for one in clients), "the cluster is up")

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """Move the store's slot to the other node: some keys before the block, and the others after it."""
        source, target = self.holder.client(), self.other.client()
        ids = [one.execute_command("CLUSTER MYID") for one in (source, target)]
        target.execute_command("CLUSTER SETSLOT", self.slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER SETSLOT", self.slot, "MIGRATING", ids[1])
        self._move(source, 10)
        yield
        while self._move(source, 500):
            pass
        for one in (target, source):
            one.execute_command("CLUSTER SETSLOT", self.slot, "NODE", ids[1])
        self.holder = self.other

    def _move(self, source: Any, count: int) -> bool:
        keys = source.execute_command("CLUSTER GETKEYSINSLOT", self.slot, count)
        if keys:
            source.execute_command("MIGRATE", "127.0.0.1", self.other.port, "", 0, 5000, "KEYS", *keys)
        return bool(keys)

    def close(self) -> None:
        for server in self.servers:
            server.kill()


class Chaos:
    """A store, a server on it, its clients, and what is expected of them."""

    def __init__(self, case: Case, store: str, folder: Path, disk: Path) -> None:
        self.case, self.folder, self.disk = case, folder, disk
        self.bundle = Path(shutil.copytree(case.path, folder / "bundle"))
        self.other_bundle = other_bundle(case, folder / "other")
        loaded = [Scorer.load(path) for path in (self.bundle, self.other_bundle)]
        self.scorers = {str(scorer.bundle.sha256)[:12]: scorer for scorer in loaded}
        made: dict[str, Callable[[], SQLite | Redis | Cluster]] = {
            "sqlite": lambda: SQLite(disk),
            "redis": lambda: Redis(disk, folder),
            "cluster": lambda: Cluster(folder),
        }
        self.store = made[store]()
        self.server, self._go = Process(self.bundle, folder), threading.Event()
        self._go.set()
        self.clients = [Client(name, seed, self.server.url, self._go) for seed, name in enumerate("wxyz")]
        self._rows = sorted((row for client in self.clients for row in client.rows), key=lambda row: row["time"])

    def __enter__(self) -> Chaos:
        self.server.start(self.store.url, "--new-store")
        for client in self.clients:
            client.start()
        self.steady()
        return self

    def __exit__(self, *error: object) -> None:
        for client in self.clients:
            client.end()
        for client in self.clients:
            client.join(30)
        if error[0] is None:
            self.server.parent.send_signal(signal.SIGTERM)
            assert self.server.parent.wait(40) == 0
            until(lambda: not self.server.left(), "no process is left", 10)
        for pid in self.server.left():
            os.kill(pid, signal.SIGKILL)
        self.server.parent.wait()
        self.store.close()

    def steady(self, count: int = 5, seconds: float = 60.0) -> None:
        """Wait until each client has so many more payments acknowledged."""
        before = [client.acknowledged for client in self.clients]
        pairs = list(zip(self.clients, before, strict=True))
        until(
            lambda: all(client.acknowledged >= at + count for client, at in pairs) or self.wrong(),
            "payments are acknowledged again",
            seconds,
        )

    def refused(self, rule: str, count: int = 4, seconds: float = 60.0) -> None:
        """Wait until so many more requests are refused by this rule, in a row: no payment is scored meanwhile."""
        before = self.count(rule)
        until(lambda: self.count(rule) >= before + count or self.wrong(), f"requests are refused by {rule}", seconds)

    def count(self, rule: str) -> int:
        return sum(client.counts[rule] for client in self.clients)

    def wrong(self) -> list[str]:
        return [text for client in self.clients for text in client.wrong]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """No request is on its way."""
        self._go.clear()
        for client in self.clients:
            assert client.idle.wait(WITHIN_SECONDS + 5)
        yield
        self._go.set()

    def counted(self, name: str, least: float, seconds: float = 20.0) -> None:
        """Wait until /metrics shows such a value."""
        until(lambda: self.server.metrics().get(name, 0) >= least, f"{name} is {least:g} in /metrics", seconds)

    def logged(self, text: str, seconds: float = 20.0) -> None:
        """Wait until this stands in the log, from the case's beginning on."""
        until(lambda: re.search(text, self.server.log()[self._log_from :]), f"in the log: {text}", seconds)

    def adopt(self) -> None:
        """What an operator does with a store that was lost and is to be gone on with. What it had answered before is checked."""
        with self.paused():
            self.check_scores()
            command = [str(TSA), "history", "adopt", "--history", self.store.url]
            found = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert found.returncode == 0, found.stderr
            with open_history(self.store.url) as store:
                held = {place[1] for place, _ in store.scan(PAYMENTS)}
            with httpx.Client(base_url=self.server.url, timeout=WITHIN_SECONDS) as http:
                for client in self.clients:
                    client.forget(held)
                    client.retell(http)

    def restart(self, *options: object) -> None:
        """Start the server again with other options."""
        self.server.parent.send_signal(signal.SIGTERM)
        assert self.server.parent.wait(40) == 0
        self.server.start(self.store.url, *options)

    def expect_degraded(self) -> None:
        """From now on clients take degraded answers, and keep what to send again."""
        for client in self.clients:
            client.postponed = client.postponed or []

    def catch_up(self) -> None:
        """While clients pause: send again what got degraded answers."""
        with httpx.Client(base_url=self.server.url, timeout=WITHIN_SECONDS) as http:
            for client in self.clients:
                client.catch_up(http)

    def run(self, case: Any) -> None:
        """One case: its fault under load, then what is promised and what must be seen."""
        self.steady()
        self._log_from, before, parent = len(self.server.log()), self.server.metrics(), self.server.parent
        case.fault(self)
        self.steady()
        self.check()
        for text in case.logged.get(self.store.name, case.logged.get("", ())):
            self.logged(text)
        for name in case.counted.get(self.store.name, case.counted.get("", ())):
            from_zero = self.server.parent is not parent and name.endswith(("_total", "}"))
            least = (0 if from_zero else before.get(name, 0)) + 1
            self.counted(name, least)

    def check(self) -> None:
        """Nothing that was answered is wrong, nothing that was acknowledged is lost."""
        with self.paused():
            self.check_scores()
            with open_history(self.store.url) as store:
                assert_nothing_lost(store, self._rows, {id_ for client in self.clients for id_ in client.answers})

    def check_scores(self) -> None:
        assert not self.wrong(), self.wrong()[:5]
        answers = {id_: answer for client in self.clients for id_, answer in client.answers.items()}
        rows = [row for row in self._rows if row["id"] in answers]
        if not rows:
            return
        offline = {version: self.case.offline(rows, scorer) for version, scorer in self.scorers.items()}
        found = {id_: abs(offline[one["version"]][id_] - one["raw_score"]) for id_, one in answers.items()}
        worst = max(found, key=lambda id_: found[id_])
        assert found[worst] <= 1e-6, (worst, answers[worst], sum(one > 1e-6 for one in found.values()), len(found))

    def summary(self) -> str:
        slowest = max(client.slowest for client in self.clients)
        counts = sum((client.counts for client in self.clients), Counter())
        return f"{dict(counts)}, slowest answer {slowest:.1f} s"


def other_bundle(case: Case, path: Path) -> Path:
    """Other weights for the same market."""
    bundle = case.bundle
    torch.manual_seed(9)
    network = type(bundle.network)(bundle.config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.5)
    replace(bundle, network=network).save(path)
    return path


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own where this process may mount one, else a folder."""
    disk = folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    mounted = os.geteuid() == 0 and subprocess.run(["mount", *options], capture_output=True).returncode == 0
    try:
        yield disk
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def is_small(disk: Path) -> bool:
    return shutil.disk_usage(disk).total <= DISK_BYTES


def fill(disk: Path) -> Path:
    """Write until nothing more is taken."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler
