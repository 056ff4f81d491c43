"""`tsa serve --decision-log`: answers, reasons and outcomes are logged; a killed server loses none that it acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from support.endpoint import CARRIED, WIRE, endpoint, made_bundle, payment, served
from tsa.cli import app
from tsa.errors import ConfigError
from tsa.serving.decisions.background_writer import rotate_all
from tsa.serving.decisions.entries import DECISIONS, OUTCOMES, REASONS
from tsa.serving.decisions.journal import Journal, journals
from tsa.serving.decisions.parquet_files import read_table
from tsa.serving.decisions.read_decisions import answered

LONG = bool(os.environ.get("TSA_LONG"))
KILLS, WORKERS = (20, 2) if LONG else (1, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("logged") / "bundle")


@pytest.fixture
def client(bundle: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    settings: dict[str, Any] = {"history": f"sqlite:///{tmp_path}/h.db", "decision_log": tmp_path / "log"}
    with endpoint(bundle, **settings, decision_log_sync=True) as found:
        yield found


def test_answers_are_logged_as_they_were_given(client: httpx.Client, tmp_path: Path) -> None:
    rows = [payment("a"), payment("b", amount="much"), payment("a")]
    answers = client.post("/v1/score", json=rows).json()
    logged = read_table(tmp_path / "log", DECISIONS)
    assert logged["id"].to_list() == ["a", "a"]
    assert logged["replayed"].to_list() == [False, True]
    first = logged.row(0, named=True)
    for name in ("raw_score", "percentile", "probability", "decision", "version", "arm", "degraded"):
        assert first[name] == answers[0][name]
    values = orjson.loads(first["values"])
    assert (values["amount"], values["device"]) == (12.5, "phone")
    assert first["keys"] == [{"history": "customer", "key": "ann"}, {"history": "terminal", "key": "t1"}]
    assert first["time"].isoformat() == "2025-04-20T12:00:00+00:00"
    assert len(answered(tmp_path / "log")) == 1


def test_outcomes_reasons_and_histories_in_requests(client: httpx.Client, tmp_path: Path) -> None:
    past = [payment("e", at="2025-04-01", fraud=0, secret=7)]
    own = {"payment": payment("b"), "histories": {"customer": past}}
    explained = client.post("/v1/score?explain=true", json=payment("a")).json()
    assert client.post("/v1/score", json=own).status_code == 200
    assert client.post("/v1/outcome", json={"id": "a", "fraud": True, "at": "2025-04-21"}).status_code == 200
    assert client.post("/v1/outcome", json={"id": "a", "fraud": False, "at": "2025-04-22"}).status_code == 200
    log, end = tmp_path / "log", time.monotonic() + 10
    while not len(read_table(log, REASONS)):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert orjson.loads(read_table(log, REASONS)["reasons"][0]) == explained["reasons"]
    assert read_table(log, OUTCOMES)["fraud"].to_list() == [True, False]
    rows = {row["id"]: row for row in answered(log).iter_rows(named=True)}
    assert rows["a"]["fraud"] is False
    assert rows["a"]["known_at"].isoformat() == "2025-04-22T00:00:00+00:00"
    (event,) = orjson.loads(rows["b"]["histories"])["customer"]
    assert event["device"] == "phone"
    assert "secret" not in event
    result = CliRunner().invoke(app, ["decisions", "show", str(log), "a"])
    assert result.exit_code == 0
    assert explained["reasons"][0]["text"] in result.output
    refused = CliRunner().invoke(app, ["decisions", "show", str(log), "nobody"])
    assert isinstance(refused.exception, ConfigError)


def test_metrics_count_entries(client: httpx.Client) -> None:
    client.post("/v1/score", json=payment("a"))
    page = client.get("/metrics").text
    assert "tsa_decisions_logged_total 1.0" in page
    assert "tsa_decisions_lost_total 0.0" in page


def test_with_sync_no_payment_is_answered_that_cannot_be_logged(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        answer = client.post("/v1/score", json=payment("a"))
    assert answer.status_code == 503
    assert answer.json()["rule"] == "decision_log"
    assert "tsa_decisions_lost_total 1.0" in client.get("/metrics").text
    again = client.post("/v1/score", json=payment("a")).json()
    assert again["replayed"]
    assert answered(tmp_path / "log")["raw_score"].to_list() == [again["raw_score"]]


def test_rows_that_carry_their_own_history(tmp_path: Path) -> None:
    path = made_bundle(tmp_path / "bundle", WIRE)
    with endpoint(path, history=None, decision_log=tmp_path / "log") as client:
        found = client.post("/v1/score", json={**CARRIED, "customer_id": "ann", "unknown": 1}).json()
    (row,) = answered(tmp_path / "log").iter_rows(named=True)
    assert row["raw_score"] == found["raw_score"]
    assert row["keys"] == [{"history": "customer", "key": "ann"}]
    values = orjson.loads(row["values"])
    assert values["hist.device"] == "tablet~phone"
    assert "unknown" not in values
    result = CliRunner().invoke(app, ["decisions", "replay", str(tmp_path / "log"), "--bundle", str(path)])
    assert result.exit_code == 0, result.output
    assert "by 0 at most" in result.output or "e-" in result.output


RETRIED = (429, 503, 504)
"""What a busy server may answer: the payment is sent again, and counts as acknowledged only once it is answered."""


class Load:
    """Clients that send payments until they are stopped, whatever a busy or killed server answers."""

    def __init__(self, url: str, names: Sequence[str], acknowledged: list[str]) -> None:
        self.statuses: Counter[str] = Counter()
        self._url, self._acknowledged, self._stop = url, acknowledged, threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(name,)) for name in names]
        for thread in self._threads:
            thread.start()

    def _send(self, name: str) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as client:
            at = 0
            while not self._stop.is_set():
                id_ = f"{name}{at}"
                try:
                    answer = client.post("/v1/score", json=payment(id_, customer_id=f"c{name}{at % 7}"))
                except httpx.TransportError as error:
                    self.statuses[type(error).__name__] += 1
                    continue
                self.statuses[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    self._acknowledged.append(id_)
                    at += 1
                elif answer.status_code not in RETRIED:
                    return

    def wait(self, count: int) -> None:
        """Wait until this many payments are acknowledged; fail if that takes a minute or no client is left."""
        end = time.monotonic() + 60
        while len(self._acknowledged) < count:
            assert time.monotonic() < end, self.statuses
            assert any(thread.is_alive() for thread in self._threads), self.statuses
            time.sleep(0.001)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), self.statuses


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a server and its workers; none is left that holds the socket."""
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_killed_under_load_no_acknowledged_payment_lacks_its_decision(bundle: Path, tmp_path: Path) -> None:
    rng, log = np.random.default_rng(0), tmp_path / "log"
    acknowledged: list[str] = []
    options = ("--decision-log", log, "--decision-log-sync", "--decision-rotate", "0.3", "--workers", WORKERS)
    for kill in range(KILLS):
        with served(bundle, f"sqlite:///{tmp_path}/h.db", *options) as (process, url):
            load = Load(url, [f"{kill}{letter}" for letter in "wxyz"], acknowledged)
            try:
                load.wait(len(acknowledged) + 20)
                time.sleep(float(rng.uniform(0, 0.5)))
            finally:
                kill_all(process)
                load.stop()
        logged = set(answered(log)["id"].to_list())
        assert set(acknowledged) <= logged
    assert rotate_all(log)
    assert not journals(log)
    logged_ids = answered(log)["id"]
    assert set(acknowledged) <= set(logged_ids.to_list())
    assert logged_ids.is_unique().all()
