"""The client package against a real server, and against one that is overloaded, broken or not ours."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.endpoint import made_bundle, payment, server
from tsa.inference.scorer import Scorer
from tsa_client import (
    Answer,
    Client,
    ConnectionLostError,
    DeadlineError,
    InvalidPaymentError,
    NotAllowedError,
    OverloadedError,
    Problem,
    RefusedError,
    UnavailableError,
    UnexpectedAnswerError,
)
from tsa_client.retrying import Backoff, seconds_of

ROOT = Path(__file__).parents[2]
QUICK = Backoff(attempts=3, first_seconds=0.01, most_seconds=0.02)
GOOD = {
    "id": "a",
    "raw_score": 0.5,
    "percentile": None,
    "probability": None,
    "decision": None,
    "version": "0" * 12,
    "degraded": False,
    "replayed": False,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("client") / "bundle")


@pytest.fixture
def url(bundle: Path, tmp_path: Path) -> Iterator[str]:
    with server(bundle, history=f"sqlite:///{tmp_path}/h.db") as (_, port):
        yield f"http://127.0.0.1:{port}"


Said = tuple[int, Any, dict[str, str]]


@contextlib.contextmanager
def saying(*answers: Said, seconds: float = 0.0) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives these answers in turn, and the headers of the requests that it got."""
    got: list[dict[str, str]] = []
    turns = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            got.append({name.lower(): value for name, value in self.headers.items()})
            time.sleep(seconds)
            status, body, headers = next(turns)
            text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            with contextlib.suppress(BrokenPipeError):
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

        def log_message(self, *arguments: Any) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{found.server_port}", got
    finally:
        found.shutdown()
        thread.join()
        found.server_close()


def problem(status: int, rule: str) -> dict[str, Any]:
    return {"status": status, "rule": rule, "detail": "it must be so", "request_id": "r1"}


def test_scores_are_those_of_the_scorer_and_a_repeat_says_so(url: str, bundle: Path) -> None:
    offline = Scorer.load(bundle).score([payment("a")])["raw_score"][0]
    with Client(url) as client:
        assert client.ready()
        first, again = client.score(payment("a")), client.score(payment("a"))
    assert isinstance(first, Answer)
    assert first.raw_score == pytest.approx(offline, abs=1e-6)
    assert first.probability is not None
    assert (first.id, first.replayed, again.replayed, again.raw_score) == ("a", False, True, first.raw_score)
    assert first.reasons is None


def test_reasons_come_when_they_are_asked_for(url: str) -> None:
    pytest.importorskip("captum")
    with Client(url) as client:
        found = client.score(payment("a"), explain=True)
    assert found.reasons


def test_a_list_has_an_answer_or_a_problem_for_each(url: str) -> None:
    with Client(url) as client:
        one, other = client.score_many([payment("a"), payment("b", amount="much")])
        assert client.score_many([]) == []
    assert isinstance(one, Answer)
    assert isinstance(other, Problem)
    assert (other.status, other.rule, other.field) == (422, "not_a_number", "amount")


def test_a_payment_that_breaks_a_rule_is_an_error_with_its_problem(url: str) -> None:
    with Client(url) as client:
        with pytest.raises(InvalidPaymentError, match="not_a_number: amount must be a number") as caught:
            client.score(payment("b", amount="much"))
        assert caught.value.problem is not None
        assert caught.value.problem.request_id
        client.score(payment("a"))
        with pytest.raises(InvalidPaymentError, match="conflicting_id"):
            client.score(payment("a", amount=1))


def test_an_outcome_is_known_to_later_payments(url: str) -> None:
    with Client(url) as client:
        client.score(payment("a"))
        client.outcome("a", fraud=True, at="2025-04-21T00:00:00Z")
        told = client.score(payment("b", at="2025-04-22T12:00:00Z"))
        client.outcome("a", fraud=False, at="2025-04-21T00:00:00Z")
        corrected = client.score(payment("c", at="2025-04-22T12:00:00Z"))
        assert told.raw_score != corrected.raw_score
        with pytest.raises(RefusedError) as caught:
            client.outcome("nobody", fraud=True)
    assert caught.value.problem is not None
    assert (caught.value.problem.status, caught.value.problem.rule) == (404, "unknown_payment")


def test_a_token_opens_the_door(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-some-length\n")
    with server(bundle, history=f"sqlite:///{tmp_path}/h.db", token_files=(tmp_path / "token",)) as (_, port):
        with Client(f"http://127.0.0.1:{port}", token="a-token-of-some-length") as client:
            assert client.score(payment("a")).id == "a"
        with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(NotAllowedError):
            client.score(payment("b"))


def test_a_full_queue_is_waited_for_as_long_as_it_asks() -> None:
    full: Said = (429, problem(429, "queue_full"), {"retry-after": "1"})
    with saying(full, (200, GOOD, {})) as (url, got), Client(url, backoff=QUICK) as client:
        begun = time.monotonic()
        assert client.score(payment("a")).raw_score == 0.5
        assert time.monotonic() - begun >= 1.0
    first, second = (int(headers["x-deadline-ms"]) for headers in got)
    assert 9000 < first <= 10_000
    assert second <= first - 1000


def test_a_wait_past_the_deadline_is_not_begun() -> None:
    with saying((429, problem(429, "rate"), {"retry-after": "60"})) as (url, got), Client(url, backoff=QUICK) as client:
        begun = time.monotonic()
        with pytest.raises(OverloadedError, match="rate"):
            client.score(payment("a"), deadline_seconds=5)
        assert time.monotonic() - begun < 2
    assert len(got) == 1


@pytest.mark.parametrize("body", [problem(503, "stopping"), "<html>no healthy upstream</html>"])
def test_attempts_come_to_an_end(body: Any) -> None:
    with saying(*[(503, body, {})] * 3) as (url, got), Client(url, backoff=QUICK) as client:
        with pytest.raises(UnavailableError):
            client.score(payment("a"))
        assert len(got) == 3


@pytest.mark.parametrize(("status", "kind"), [(400, RefusedError), (422, InvalidPaymentError), (504, DeadlineError)])
def test_what_would_come_back_the_same_is_not_tried_again(status: int, kind: type[Exception]) -> None:
    with saying((status, problem(status, "some_rule"), {})) as (url, got), Client(url, backoff=QUICK) as client:
        with pytest.raises(kind, match="some_rule"):
            client.score(payment("a"))
        assert len(got) == 1


def test_silence_ends_at_the_deadline() -> None:
    with saying((200, GOOD, {}), seconds=0.5) as (url, _), Client(url, backoff=QUICK) as client:
        begun = time.monotonic()
        with pytest.raises(DeadlineError):
            client.score(payment("a"), deadline_seconds=0.15)
        assert time.monotonic() - begun < 0.45


def test_nobody_there_is_said_after_the_last_attempt() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Client(url, backoff=QUICK) as client:
        assert not client.ready()
        with pytest.raises(ConnectionLostError):
            client.score(payment("a"))


@pytest.mark.parametrize("body", ["<html>", [], {"id": "a"}])
def test_an_answer_that_is_none_of_the_endpoint_is_an_error(body: Any) -> None:
    with saying((200, body, {})) as (url, _), Client(url) as client, pytest.raises(UnexpectedAnswerError):
        client.score(payment("a"))


def test_waits_double_and_are_bounded() -> None:
    backoff = Backoff(first_seconds=0.1, most_seconds=0.3)
    for failed, longest in ((1, 0.1), (2, 0.2), (3, 0.3), (1000, 0.3)):
        assert longest / 2 + 2 <= backoff.seconds(failed, 2.0) <= longest + 2
    assert [seconds_of(text) for text in ("7", None, "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "")] == [7, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        Backoff(attempts=0)
    with pytest.raises(ValueError, match="deadline_seconds must be above 0"):
        Client("http://127.0.0.1:9").score({}, deadline_seconds=0)


def test_the_example_scores_a_file(url: str, tmp_path: Path) -> None:
    rows = [payment("a"), payment("b", amount="much"), payment("c", at="2025-04-21T00:00:00Z")]
    (tmp_path / "payments.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    command = [sys.executable, ROOT / "examples" / "score_payments.py", tmp_path / "payments.jsonl", "--size", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python" / "src")}
    found = subprocess.run(
        [*command, "--url", url], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 1, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [line.get("id", line.get("problem")) for line in lines] == ["a", "not_a_number", "c"]
