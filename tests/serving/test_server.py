"""`tsa serve` as a process: how it starts, ends under load, speaks TLS, and runs several workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.endpoint import certificates, context_of, made_bundle, payment, served, server


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("server") / "bundle")


def command(bundle: Path, *options: object) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """`tsa serve` with a history store of its own."""
    return served(bundle, f"sqlite:///{bundle.parent}/own.db", *options)


def test_sigterm_under_load_loses_nothing_that_was_accepted(bundle: Path) -> None:
    outcomes: list[int | str] = []
    unanswered: list[str] = []

    def send(name: str, url: str) -> None:
        with httpx.Client(timeout=30) as client:
            for count in range(100_000):
                try:
                    status = client.post(f"{url}/v1/score", json=payment(f"{name}{count}")).status_code
                except httpx.ConnectError:
                    outcomes.append("closed")
                    return
                except httpx.TransportError:  # a connection that was opened as the socket closed
                    unanswered.append(f"{name}{count}")
                    return
                outcomes.append(status)
                if status == 503:
                    time.sleep(0.05)

    with command(bundle, "--drain-seconds", 0.5) as (process, url):
        threads = [threading.Thread(target=send, args=(name, url)) for name in "abcd"]
        for thread in threads:
            thread.start()
        while outcomes.count(200) < 20:
            time.sleep(0.01)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        seconds = time.monotonic() - begun
        for thread in threads:
            thread.join()
        said = process.stderr.read() if process.stderr else ""
    assert code == 0
    assert seconds < 15
    assert ("running as root" in said) == (os.geteuid() == 0)
    assert "a0" not in said
    assert set(outcomes) == {200, 503, "closed"}, set(outcomes)
    with command(bundle) as (_, url):
        accepted = [httpx.post(f"{url}/v1/score", json=payment(name)).json()["replayed"] for name in unanswered]
        assert httpx.post(f"{url}/v1/score", json=payment("a0")).json()["replayed"]
    assert not any(accepted)


def test_what_is_wrong_with_the_settings_is_one_paragraph(tsa: Any, bundle: Path, tmp_path: Path) -> None:
    for arguments, text in (
        ((tmp_path / "nothing",), "is not a bundle"),
        ((bundle,), "--history is required"),
        ((bundle, "--history", "mysql://x"), "history must be like"),
        ((bundle, "--history", f"sqlite:///{tmp_path}/mistyped.db"), "new store with 0 payments"),
        (
            (bundle, "--history", f"sqlite:///{tmp_path}/h.db", "--new-store", "--engine", "abacus"),
            "engine must be one of",
        ),
        (
            (bundle, "--history", f"sqlite:///{tmp_path}/h.db", "--new-store", "--token-env", "NO_SUCH_TOKEN"),
            "NO_SUCH_TOKEN",
        ),
        ((bundle, "--workers", 0), "workers: must be at least 1"),
    ):
        outcome = tsa("serve", *arguments)
        assert outcome.code == 2
        assert text in outcome.err.replace("\n", " ")
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_said(tsa: Any, bundle: Path, tmp_path: Path, workers: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        history = ("--history", f"sqlite:///{tmp_path}/h.db", "--new-store")
        outcome = tsa("serve", bundle, *history, "--port", port, "--workers", workers)
    assert outcome.code == 2
    assert f"port must be free on 127.0.0.1 (got {port}: Address already in use" in outcome.err.replace("\n", " ")


def test_workers_share_histories_and_figures(bundle: Path) -> None:
    with command(bundle, "--workers", 2, "--drain-seconds", 0) as (process, url):
        # a connection each, so that both workers get some
        answers = [httpx.post(f"{url}/v1/score", json=payment(f"w{at % 6}"), timeout=30).json() for at in range(12)]
        assert [answer["replayed"] for answer in answers] == [False] * 6 + [True] * 6
        assert [answer["raw_score"] for answer in answers[:6]] == [answer["raw_score"] for answer in answers[6:]]
        figures = httpx.get(f"{url}/metrics").text
        assert 'tsa_payments_total{outcome="scored"} 6.0' in figures
        assert 'tsa_payments_total{outcome="replayed"} 6.0' in figures
        killed = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1])
        os.kill(killed, signal.SIGKILL)
        again = [httpx.post(f"{url}/v1/score", json=payment(f"w{at}"), timeout=60).json() for at in range(6)]
        assert [answer["raw_score"] for answer in again] == [answer["raw_score"] for answer in answers[:6]]
        children = f"/proc/{process.pid}/task/{process.pid}/children"
        end = time.monotonic() + 20
        while len(Path(children).read_text().split()) < 3:  # two workers, and Python's own tracker of resources
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_while_it_ends_it_says_so_but_lives(bundle: Path) -> None:
    with (
        server(bundle, drain_seconds=1.0) as (found, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        found.handle_exit(signal.SIGTERM, None)
        answer = client.post("/v1/score", json=payment("late"))
        assert (answer.status_code, answer.json()["rule"]) == (503, "stopping")
        assert answer.headers["connection"] == "close"
        assert answer.headers["retry-after"] == "1"
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200


def test_it_ends_in_time_whatever_is_being_worked_on(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than `stop_seconds` is told so, and is not waited for a second time."""
    working = threading.Event()

    def work(*_: object) -> None:
        working.set()
        time.sleep(6)

    monkeypatch.setattr("tsa.serving.scoring.app_state.score_isolating_failures", work)
    with ThreadPoolExecutor() as pool:
        with server(bundle, drain_seconds=0.0, stop_seconds=1.0) as (found, port):
            answer = pool.submit(httpx.post, f"http://127.0.0.1:{port}/v1/score", json=payment("long"), timeout=30)
            assert working.wait(10)
            begun = time.monotonic()
            found.handle_exit(signal.SIGTERM, None)
        assert time.monotonic() - begun < 4
        assert (answer.result().status_code, answer.result().json()["rule"]) == (503, "stopping")


def test_with_an_authority_only_its_clients_come_in(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    certificates(tmp_path)
    secured = {
        "ssl_certificate": tmp_path / "server.pem",
        "ssl_key": tmp_path / "server.key",
        "ssl_client_ca": tmp_path / "authority.pem",
    }
    with server(bundle, **secured) as (_, port):
        url = f"https://localhost:{port}/v1/score"
        known = httpx.post(url, json=payment("tls"), verify=context_of(tmp_path, "client"))
        assert known.status_code == 200
        for client in (None, "stranger"):
            with pytest.raises(httpx.TransportError):
                httpx.post(url, json=payment("tls"), verify=context_of(tmp_path, client))
