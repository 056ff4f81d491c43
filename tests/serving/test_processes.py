"""The processes of `tsa serve`: signals at any moment, a parent that is killed, workers that cannot stay, files renewed."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.endpoint import TSA, certificates, context_of, made_bundle, payment, served, server, settings_of
from tsa.errors import ConfigError, ServerError
from tsa.serving import supervisor, tls, worker_metrics
from tsa.serving.file_descriptors import log_rarely
from tsa.serving.server import bind
from tsa.serving.settings import ServeSettings
from tsa.serving.worker_metrics import WorkerPipes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("processes") / "bundle")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until(holds: Callable[[], object], seconds: float = 180.0) -> None:
    """Wait for a condition. The limit is only for what never comes: a loaded machine may be ten times slower."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def hears_sigterm(pid: int) -> bool:
    """Whether the process has a handler: until then the kernel drops a signal to the first process of a container."""
    with contextlib.suppress(OSError):
        caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
        return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))
    return False


def status(url: str, **options: Any) -> int:
    try:
        return httpx.get(f"{url}/ping", timeout=60, **options).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.parametrize(("words", "seconds"), [(("--workers", 1), 0.8), (("--workers", 2), 2.5)])
def test_sigterm_ends_the_start(bundle: Path, tmp_path: Path, words: tuple[object, ...], seconds: float) -> None:
    options = ["--history", f"sqlite:///{tmp_path}/h.db", "--new-store", "--port", free_port(), *words]
    process = subprocess.Popen([str(word) for word in (TSA, "serve", bundle, *options)], stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) in (0, 143, -signal.SIGTERM)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a process space of its own")
def test_the_first_process_of_a_container_hears_sigterm_while_it_starts(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "model")
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path), "TSA_HISTORY": f"sqlite:///{tmp_path}/h.db"}
    environment |= {"SAGEMAKER_BIND_TO_PORT": str(free_port()), "TSA_NEW_STORE": "1"}
    words = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "tsa.integrations.sagemaker.serving"]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: children(process.pid) and hears_sigterm(children(process.pid)[0]))
        os.kill(children(process.pid)[0], signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()


def test_workers_end_with_their_parent_and_a_restart_finds_the_address_free(bundle: Path, tmp_path: Path) -> None:
    history = f"sqlite:///{tmp_path}/h.db"
    with served(bundle, history, "--workers", 2) as (process, url):
        port = url.rpartition(":")[2]
        assert httpx.post(f"{url}/v1/score", json=payment("a")).status_code == 200
        begun = children(process.pid)
        process.send_signal(signal.SIGHUP)  # which ends no worker, and no parent
        until(lambda: "SIGHUP" in (process.stderr.readline() if process.stderr else ""))
        assert status(url) == 200
        process.kill()
        process.wait()
        words = [TSA, "serve", bundle, "--history", history, "--port", port]
        again = subprocess.Popen([str(word) for word in words], stderr=subprocess.DEVNULL)
        try:
            until(lambda: not any(map(running, begun)))
            until(lambda: status(url) == 200)
            assert httpx.post(f"{url}/v1/score", json=payment("a")).json()["replayed"]
        finally:
            again.terminate()
            again.wait(120)


def test_workers_that_cannot_stay_end_the_server(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TRIES", 2)
    settings = settings_of(tmp_path / "gone", workers=1, port=free_port())
    text = r"workers must stay up \(got 2 failures in a row .* the last with 2\)"
    with bind(settings) as listening, pytest.raises(ServerError, match=text):
        supervisor.supervise(settings, listening)
    assert signal.getsignal(signal.SIGTERM) is not None


@pytest.mark.parametrize("history", ["sqlite:///:memory:", "sqlite:///file:x?mode=memory"])
def test_histories_in_memory_are_for_one_process(tsa: Any, bundle: Path, history: str) -> None:
    outcome = tsa("serve", bundle, "--history", history, "--workers", 2)
    assert outcome.code == 2
    assert "history must be a file or a server that all workers share" in outcome.err.replace("\n", " ")


def test_what_is_wrong_with_a_certificate_is_one_sentence(tsa: Any, bundle: Path, tmp_path: Path) -> None:
    certificates(tmp_path)
    from cryptography.hazmat.primitives import serialization

    (tmp_path / "text.pem").write_text("no certificate")
    key = serialization.load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"word")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    (tmp_path / "locked.key").write_bytes(pem)
    for certificate, key_file, authority, text in (
        ("server.pem", "client.key", None, "the key must belong to the certificate"),
        ("none.pem", "server.key", None, "none.pem: No such file"),
        ("text.pem", "server.key", None, "must be PEM files"),
        ("server.pem", "text.pem", None, "must be PEM files"),
        ("server.pem", "locked.key", None, "the key must not be encrypted"),
        ("server.pem", "server.key", "text.pem", "client_ca must be a PEM file of certificates"),
    ):
        settings = ServeSettings(
            bundle=bundle,
            ssl_certificate=tmp_path / certificate,
            ssl_key=tmp_path / key_file,
            ssl_client_ca=None if authority is None else tmp_path / authority,
        )
        with pytest.raises(ConfigError, match=text):
            tls.context_of(settings)
    words = ("--certificate", tmp_path / "server.pem", "--key", tmp_path / "client.key")
    for count in (1, 2):
        outcome = tsa(
            "serve", bundle, "--history", f"sqlite:///{tmp_path}/h.db", "--port", 0, "--workers", count, *words
        )
        assert (outcome.code, "Traceback" in outcome.err) == (2, False)
        assert "the key must belong to the certificate" in outcome.err.replace("\n", " ")


def presented(port: int, folder: Path) -> bytes | None:
    """The certificate that the server shows."""
    context = context_of(folder, None)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as wrapped:
        return wrapped.getpeercert(binary_form=True)


def test_a_renewed_certificate_and_new_tokens_are_read_without_a_restart(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates(tmp_path)
    (tmp_path / "tokens").write_text("a-token-of-some-length\n")
    secured = {"ssl_certificate": tmp_path / "server.pem", "ssl_key": tmp_path / "server.key"}
    with server(bundle, **secured, token_files=(tmp_path / "tokens",)) as (_, port):
        url = f"https://localhost:{port}/v1/form"

        def opens(token: str) -> bool:
            headers = {"Authorization": f"Bearer {token}"}
            return httpx.get(url, headers=headers, verify=context_of(tmp_path, None)).status_code == 200

        first = presented(port, tmp_path)
        assert opens("a-token-of-some-length")
        before = {name: (tmp_path / name).read_bytes() for name in ("server.pem", "server.key")}
        certificates(tmp_path)
        renewed = {name: (tmp_path / name).read_bytes() for name in before}
        (tmp_path / "server.key").write_bytes(before["server.key"])  # half of a renewal: the pair before stays
        (tmp_path / "tokens").write_text("")
        until(lambda: "the certificate could not be reloaded" in caplog.text and "the tokens could" in caplog.text)
        assert presented(port, tmp_path) == first
        (tmp_path / "server.key").write_bytes(renewed["server.key"])
        (tmp_path / "tokens").write_text("another-token-of-some-length\n")
        until(lambda: presented(port, tmp_path) != first)
        until(lambda: opens("another-token-of-some-length"))
        assert not opens("a-token-of-some-length")


def test_an_authority_that_is_taken_away_lets_nobody_in(bundle: Path, tmp_path: Path) -> None:
    certificates(tmp_path)
    secured = {name: tmp_path / file for name, file in (("ssl_certificate", "server.pem"), ("ssl_key", "server.key"))}
    with server(bundle, **secured, ssl_client_ca=tmp_path / "authority.pem") as (found, port):
        url, known = f"https://localhost:{port}", context_of(tmp_path, "client")
        assert status(url, verify=known) == 200
        shutil.copy(tmp_path / "stranger.pem", tmp_path / "authority.pem")
        found.renew()
        until(lambda: status(url, verify=known) == 0)


def test_sighup_takes_another_bundle_over_and_opens_the_shadows_file_anew(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "bundle"
    shutil.copytree(bundle, own)
    log = tmp_path / "shadow.jsonl"
    shadow = {"shadow": made_bundle(tmp_path / "shadow", seed=5), "shadow_file": log, "shadow_difference": 0.0}
    with server(own, **shadow) as (found, port):
        url = f"http://127.0.0.1:{port}/v1/score"
        ids = map(str, itertools.count())  # a payment that was scored before gets its first answer again

        def version() -> str:
            return str(httpx.post(url, json=payment(next(ids))).json()["version"])

        first = version()
        until(lambda: log.read_text().count("\n") == 1)
        log.rename(tmp_path / "shadow.1")
        shutil.rmtree(own)
        made_bundle(own, seed=3)
        found.renew()
        until(lambda: version() != first)
        until(log.exists)
        until(lambda: version() and log.read_text().count("\n") >= 1)
        shutil.rmtree(own)
        found.renew()
        until(lambda: "the bundle was not reloaded" in caplog.text)
        assert httpx.post(url, json=payment("d")).status_code == 200, "what cannot be read leaves what was there"


def test_running_out_of_open_files_is_logged(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    port = free_port()
    words = [TSA, "serve", bundle, "--history", f"sqlite:///{tmp_path}/h.db", "--new-store", "--port", port]
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(word) for word in words],
            stderr=file,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)),
        )
    try:
        until(lambda: status(f"http://127.0.0.1:{port}") == 200)
        with contextlib.ExitStack() as opened:
            for _ in range(60):
                opened.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            until(lambda: "open files" in log.read_text())
        until(lambda: status(f"http://127.0.0.1:{port}") == 200)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def test_the_same_trouble_is_not_logged_each_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("ERROR"):
        for _ in range(100):
            log_rarely("a trouble of this test")
    assert len(caplog.records) == 1


def test_no_request_waits_for_workers_that_are_gone(bundle: Path, tmp_path: Path) -> None:
    """The socket stays open in the parent: without it turning them away, connections would wait there."""
    with served(bundle, f"sqlite:///{tmp_path}/h.db", "--workers", 2) as (process, url):
        until(lambda: len(workers_of(process.pid)) == 2)
        assert httpx.post(f"{url}/v1/score", json=payment("a"), timeout=30).status_code == 200
        for pid in workers_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        errors = [errors_of(url) for _ in range(20)]
        assert not any(isinstance(error, httpx.TimeoutException) for error in errors), "turned away, not timed out"
        until(lambda: status(url) == 200)
        assert metric(url, "tsa_workers_ended_total") == 2
        assert abs(metric(url, "tsa_start_time_seconds") - time.time()) < 600
        until(lambda: metric(url, "tsa_workers_ready") == 2)


class Ended:
    """A worker that has ended."""

    pid, exitcode = 1, -9

    def is_alive(self) -> bool:
        return False


def test_restarts_come_more_and_more_seldom_and_end_only_without_a_healthy_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])

    def start(self: Any) -> None:
        self.member, self.worker, self.started_at, self._has_ended = supervisor.WorkerMember(), Ended(), now[0], False
        starts.append(now[0])

    starts: list[float] = []
    monkeypatch.setattr(supervisor.Place, "start", start)
    failing, other = (supervisor.Place(None, None, supervisor.MetricsSum()) for _ in range(2))  # type: ignore[arg-type]
    starts.clear()
    while now[0] < 1300:
        failing.check()
        now[0] += 0.25
    pauses = [round(after - before) for before, after in pairwise(starts)]
    assert pauses[:5] == [1, 3, 7, 15, 31]
    assert set(pauses[5:]) == {60}
    assert "is replaced in 60 s (failure 8 in a row)" in caplog.text

    supervisor._end_if_none_healthy([failing, other])  # the other one may still come up
    other.lost = supervisor.TRIES
    with pytest.raises(ServerError, match=r"failures in a row in each place, the last with -9 \(SIGKILL\)"):
        supervisor._end_if_none_healthy([failing, other])
    monkeypatch.setattr(Ended, "is_alive", lambda self: True)
    other.member.ready_at = now[0] - supervisor.STEADY_SECONDS - 1
    supervisor._end_if_none_healthy([failing, other])


RUN = """
import sys, time
from pathlib import Path
from tsa.serving import server, supervisor, worker
from tsa.serving.settings import ServeSettings
worker.Server.renew = lambda self: self._loop.call_soon_threadsafe(time.sleep, 3600)  # the loop hangs at SIGHUP
if __name__ == "__main__":
    supervisor.STEADY_SECONDS, supervisor.MAX_WAIT_SECONDS = 0.2, 0.2
    supervisor.MAX_SILENT_ROUNDS, supervisor.MAX_STILL_CHECKS = 3, 5
    bundle, history, port = sys.argv[1:]
    server.run(ServeSettings(bundle=Path(bundle), history=history, new_store=True, port=int(port), workers=2))
"""


@contextlib.contextmanager
def impatient_server(bundle: Path, folder: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of two workers, which are ready, with short waits: the process and its address."""
    port = free_port()
    (folder / "run.py").write_text(RUN)
    words = [sys.executable, folder / "run.py", bundle, f"sqlite:///{folder}/h.db", port]
    with log.open("w") as file:
        process = subprocess.Popen([str(word) for word in words], stderr=file, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: status(url) == 200 and metric(url, "tsa_workers_ready") == 2)
        yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TSA_LONG"), reason="starts ten workers, one after the other: TSA_LONG=1")
def test_a_healthy_worker_goes_on_while_another_fails_again_and_again(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with impatient_server(bundle, tmp_path, log) as (process, url):
        healthy, *others = workers_of(process.pid)
        time.sleep(0.3)  # it counts as healthy from here on
        for _ in range(supervisor.TRIES + 2):
            for pid in others:
                os.kill(pid, signal.SIGKILL)
            until(lambda others=others: set(workers_of(process.pid)) - {healthy, *others})  # type: ignore[misc]
            others = [pid for pid in workers_of(process.pid) if pid != healthy]
            assert status(url) == 200
        assert metric(url, "tsa_workers_ended_total") == supervisor.TRIES + 2
        until(lambda: metric(url, "tsa_workers_ready") == 2)
        assert healthy in workers_of(process.pid)
        while process.poll() is None:
            for pid in workers_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    assert "workers must stay up (got 5 failures in a row in each place, the last with -9 (SIGKILL))" in log.read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("TSA_LONG"), reason="starts three workers and waits for one that hangs: TSA_LONG=1"
)
@pytest.mark.parametrize("what", [signal.SIGSTOP, signal.SIGHUP], ids=["all threads", "the event loop"])
def test_a_worker_that_hangs_is_replaced(bundle: Path, tmp_path: Path, what: signal.Signals) -> None:
    log = tmp_path / "log"
    with impatient_server(bundle, tmp_path, log) as (process, url):
        hanging, *_ = workers_of(process.pid)
        os.kill(hanging, what)
        until(lambda: not running(hanging))
        until(lambda: metric(url, "tsa_workers_ended_total") == 1)
        until(lambda: metric(url, "tsa_workers_ready") == 2)
        process.terminate()
        assert process.wait(60) == 0
    assert f"worker {hanging} hangs and is killed" in log.read_text()


def test_a_worker_counts_as_silent_only_while_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_metrics, "GATHER_SECONDS", 0.01)
    member, together = worker_metrics.WorkerMember(), worker_metrics.MetricsSum()
    line = WorkerPipes(*(os_copy(pipe) for pipe in (member.line.request_pipe, member.line.report_pipe)))
    together.join(member)
    for _ in range(3):
        together.gather()
    assert member.rounds_without_answer == 3
    line.report_pipe.send((line.report_pipe.recv(), 7, []))
    together.gather()
    assert (member.rounds_without_answer, member.beats) == (0, 7)
    together.leave(member)


def test_a_pause_of_all_processes_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supervisor.Place, "start", lambda self: setattr(self, "member", worker_metrics.WorkerMember()))
    place = supervisor.Place(None, None, None)  # type: ignore[arg-type]

    def hangs(seconds: float, beats: int = 0) -> bool:
        now[0] += seconds
        place.member.beats += beats
        return place._hangs(now[0])

    assert not hangs(3600.0), "a long time, but one check"
    assert not any(hangs(0.1) for _ in range(9 * supervisor.MAX_STILL_CHECKS)), "many checks in a short time"
    assert not hangs(1.0, beats=1)
    assert [hangs(1.0) for _ in range(supervisor.MAX_STILL_CHECKS)].index(True) == supervisor.MAX_STILL_CHECKS - 1
    assert not hangs(1.0, beats=1)
    place.member.close()


def os_copy(pipe: Connection) -> Connection:
    """As a worker gets it: the end in this process is closed."""
    return Connection(os.dup(pipe.fileno()))


def errors_of(url: str) -> httpx.TransportError | None:
    try:
        httpx.get(f"{url}/ping", timeout=60)
    except httpx.TransportError as error:
        return error
    return None


def metric(url: str, name: str) -> float:
    return float(httpx.get(f"{url}/metrics", timeout=60).text.partition(f"\n{name} ")[2].split()[0])


def workers_of(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        found = children(pid)
    return [child for child in found if b"spawn_main" in command_of(child)]


def command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
