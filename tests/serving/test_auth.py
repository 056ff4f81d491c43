"""Who may, how much, and how it is said: tokens, bounds, rates, metrics; and what happens without histories."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.endpoint import endpoint, made_bundle, payment, server, settings_of
from tsa.errors import ConfigError
from tsa.serving import auth
from tsa.serving.auth import BearerTokens, Grant, bearer, read_tokens
from tsa.serving.decisions.entries import OUTCOMES
from tsa.serving.decisions.parquet_files import read_table
from tsa.serving.http.app import routers
from tsa.serving.http.route_roles import ROLES_BY_PATH, needed_roles
from tsa.serving.scoring.app_state import AppState
from tsa.serving.settings import ServeSettings

SCORE, ADMIN = "score-token-0123456789", "admin-token-0123456789"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("security") / "bundle")


def with_token(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_tokens_open_their_own_door_alone(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", SCORE)
    (tmp_path / "admin").write_text(f"# those on call\n{ADMIN}\n")
    with endpoint(bundle, token_env=("SHOP_TOKEN",), admin_token_files=(tmp_path / "admin",)) as client:
        for headers in ({}, with_token("wrong-token-0123456789"), {"authorization": SCORE}):
            answer = client.post("/v1/score", json=payment("a"), headers=headers)
            assert (answer.status_code, answer.json()["rule"]) == (401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/score", json=payment("a"), headers=with_token(SCORE)).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/openapi.json", headers=with_token(SCORE)).json()["security"] == [{"token": []}]


def routes(service: AppState) -> list[tuple[str, str]]:
    """The method and path of each route of the application."""
    return [
        (min(route.methods - {"HEAD"}), route.path.replace("{name}", "shop").replace("{version}", "1"))
        for router in routers(service)
        for route in router.routes
    ]


def test_each_route_needs_its_role(bundle: Path, tmp_path: Path) -> None:
    """Every route with every role, with an unknown token, and with none."""
    tokens = {role: f"{role}-token-0123456789" for role in auth.ROLES}
    tokens["all"] = "all-token-0123456789"
    lines = [f"{tokens['score']}", f"{tokens['analyst']} analyst ann", f"{tokens['all']}\tadmin,analyst,score"]
    (tmp_path / "tokens").write_text("\n".join([*lines, f"{tokens['admin']} admin"]))
    with server(bundle, token_files=(tmp_path / "tokens",)) as (found, port):
        assert found.service is not None
        known = routes(found.service)
        assert len(known) > 15
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for method, path in [*known, ("GET", "/nowhere")]:
                needed = needed_roles(path)
                is_listed = path in ROLES_BY_PATH or path.startswith(("/v1/admin/", "/v2", "/v1/queue"))
                assert needed is None or is_listed or path == "/nowhere", f"{path} must be in the table of roles"
                for role, token in tokens.items():
                    status = client.request(method, path, headers=with_token(token)).status_code
                    allowed = needed is None or role == "all" or role in needed
                    assert (status not in (401, 403)) == allowed, (path, role, status)
                    if not allowed:
                        assert status == 403
                for headers in ({}, with_token("wrong-token-0123456789")):
                    answer = client.request(method, path, headers=headers)
                    assert (answer.status_code == 401) == (needed is not None), path


def test_the_log_of_decisions_says_who_reported_an_outcome(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{SCORE}\n{ADMIN} analyst ann\n")
    options: dict[str, Any] = {"token_files": (tmp_path / "tokens",), "decision_log": tmp_path / "log"}
    with endpoint(bundle, **options, decision_log_sync=True, history=f"sqlite:///{tmp_path}/h.db") as client:
        assert client.post("/v1/score", json=payment("a"), headers=with_token(SCORE)).status_code == 200
        outcome = {"id": "a", "fraud": True}
        assert client.post("/v1/outcome", json=outcome, headers=with_token(ADMIN)).status_code == 200
    assert read_table(tmp_path / "log", OUTCOMES)["by"].to_list() == ["ann"]


def test_roles_and_names_of_tokens() -> None:
    tokens = BearerTokens(
        [(SCORE, "score"), (f"{ADMIN} admin,analyst ann", "score"), (ADMIN, "score"), ("x" * 16, "admin")]
    )
    assert tokens.grant(ADMIN) == Grant(frozenset({"admin", "analyst", "score"}), "ann")
    assert tokens.grant("x" * 16).roles == {"admin"}
    assert tokens.grant(SCORE).name.startswith("token-")
    assert SCORE not in tokens.grant(SCORE).name
    assert [tokens.has(role) for role in auth.ROLES] == [True, True, True]
    assert not BearerTokens([]).has("score")


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([f"{SCORE} boss"], "must be its roles"),
        ([f"{SCORE} score,"], "must be its roles"),
        ([f"{SCORE} score a b"], r"got 4 words"),
        ([f"{SCORE} score <b>"], "the name of a token"),
        ([f"{SCORE} score token-1"], "must not start with"),
        ([f"{SCORE} score =cmd()"], "the name of a token"),
        ([f"{SCORE} score ann", f"{SCORE} admin bea"], "must have one name"),
        (["x" * 9000], "at most 8192"),
    ],
)
def test_lines_that_are_no_token_are_refused(lines: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as refused:
        BearerTokens((line, "score") for line in lines)
    assert SCORE not in str(refused.value)


def test_without_an_admin_token_nobody_is_admin(bundle: Path) -> None:
    with endpoint(bundle) as client:
        answer = client.post("/v1/admin/reload")
        assert (answer.status_code, answer.json()["rule"]) == (403, "no_admin")


def test_tokens_are_read_and_must_not_be_guessable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        BearerTokens([("short", "score")])
    with pytest.raises(ConfigError, match="NOWHERE"):
        read_tokens(["NOWHERE"], [])
    (tmp_path / "none").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="one token per line"):
        read_tokens([], [tmp_path / "none"])
    tokens = BearerTokens([(SCORE, "score"), (ADMIN, "score")])
    is_known = [tokens.grant(text) is not None for text in (SCORE, ADMIN, SCORE[:-1], "", None)]
    assert is_known == [True, True, False, False, False]
    assert BearerTokens([]).grant("") is None
    assert [bearer(text) for text in ("Bearer x", "bearer  x ", "Basic x", None, "Bearer ")] == [
        "x",
        "x",
        None,
        None,
        None,
    ]


def test_a_client_that_sends_too_much_is_told_to_wait(bundle: Path) -> None:
    with endpoint(bundle, rate=0.5, burst=3.0) as client:
        statuses = [client.post("/v1/score", json=payment(f"r{at}")).status_code for at in range(8)]
        assert statuses[:3] == [200, 200, 200]
        assert statuses[-1] == 429
        refused = client.post("/v1/score", json=payment("r9"))
        assert refused.json()["rule"] == "rate"
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/ping").status_code == 200


def test_a_body_over_the_bound_is_not_read(bundle: Path) -> None:
    with server(bundle, max_bytes=1000) as (_, port), socket.create_connection(("127.0.0.1", port)) as raw:
        head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        raw.sendall(head + b"content-length: 99999999999\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(10_000), b""))
        assert answer.startswith(b"HTTP/1.1 413")
        assert b'"rule":"too_large"' in answer


def test_a_body_without_a_length_is_read_up_to_the_bound(bundle: Path) -> None:
    def chunks() -> Any:
        for _ in range(100):
            yield b" " * 100

    with endpoint(bundle, max_bytes=1000) as client:
        answer = client.post("/v1/score", content=chunks(), headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["rule"]) == (413, "too_large")


def test_a_body_that_does_not_come_is_not_waited_for(bundle: Path) -> None:
    with server(bundle, read_seconds=0.2) as (_, port), socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        raw.settimeout(10)
        assert raw.recv(10_000).startswith(b"HTTP/1.1 408")


def test_nor_is_one_that_never_begins(bundle: Path) -> None:
    with server(bundle, read_seconds=0.2) as (_, port), socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
        raw.settimeout(10)
        assert raw.recv(10_000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "path", ["/v1/score", "/v1/score/flat", "/v1/outcome", "/invocations", "/v2/models/shop/infer"]
)
def test_what_is_nested_without_end_is_refused(bundle: Path, path: str) -> None:
    deep = "as deep as JSON is read"
    bodies = {"id": deep, "fraud": True}, {"id": "a", "fraud": deep}, {"id": "a", "fraud": True, "at": deep}
    tensors = {"inputs": [{"name": deep}]}, {"inputs": [{"name": "id", "datatype": deep, "shape": deep, "data": deep}]}
    with endpoint(bundle) as client:
        for body in (*bodies, *tensors, {"inputs": [], "outputs": [deep]}, payment("a", amount=deep)):
            text = json.dumps(body).replace(json.dumps(deep), "[" * 1000 + "1" + "]" * 1000)
            answer = client.post(path, content=text, headers={"content-type": "application/json"})
            assert 400 <= answer.status_code < 500, (body, answer.text)
            assert len(answer.text) < 1000


def test_numbers_of_many_digits_take_no_time(bundle: Path) -> None:
    """The digits of each could be parted in 4,000 ways; a thousand such texts would hold all others up for minutes."""
    many = [payment(f"d{at}", amount="1" * 4095 + "x") for at in range(900)]
    with endpoint(bundle) as client:
        answer = client.post("/v1/score", json=many, timeout=60)
        assert {one["problem"]["rule"] for one in answer.json()} == {"not_a_number"}


def test_tokens_cannot_be_guessed_at_leisure(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", SCORE)
    with endpoint(bundle, token_env=("SHOP_TOKEN",), rate=0.5, burst=3) as client:
        guesses = [client.get("/metrics", headers=with_token(f"a-guess-{at:016}")) for at in range(5)]
        assert [answer.status_code for answer in guesses] == [401, 401, 401, 401, 429]
        assert client.get("/metrics", headers=with_token(SCORE)).status_code == 200, "its own share is untouched"


def test_unknown_addresses_and_methods_are_problems(bundle: Path) -> None:
    with endpoint(bundle) as client:
        for method, path, status, rule in (
            ("GET", "/nowhere", 404, "not_found"),
            ("GET", "/v1/score", 405, "method"),
            ("DELETE", "/", 405, "method"),
            ("GET", "/page/../settings.py", 404, "not_found"),
            ("GET", "/page/%2e%2e%2fsettings.py", 404, "not_found"),
        ):
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["rule"]) == (status, rule), path
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_request_id_is_given_back_or_made(bundle: Path) -> None:
    with endpoint(bundle) as client:
        assert client.get("/ping", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
        made = client.get("/ping", headers={"x-request-id": "no spaces, please"}).headers["x-request-id"]
        assert len(made) == 16


def test_metrics_count_what_happened(bundle: Path, tmp_path: Path) -> None:
    with endpoint(bundle, history=f"sqlite:///{tmp_path}/h.db") as client:
        client.post("/v1/score", json=[payment("a"), payment("a"), payment("b", device="watch", country=None)])
        client.post("/v1/score", json=payment("c", amount="x"))
        client.post("/v1/score", content=b"{")
        lines = dict(
            line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")
        )
        for name, value in (
            ('tsa_payments_total{outcome="scored"}', 2),
            ('tsa_payments_total{outcome="replayed"}', 1),
            ('tsa_payments_total{outcome="refused"}', 1),
            ('tsa_refusals_total{rule="not_a_number"}', 1),
            ('tsa_refusals_total{rule="not_json"}', 1),
            ('tsa_unknown_values_total{feature="device"}', 1),
            ('tsa_missing_values_total{feature="country"}', 1),
            ('tsa_missing_values_total{feature="device"}', 0),
            ("tsa_raw_score_count", 2),
            ("tsa_queue_payments", 0),
            ('tsa_request_seconds_count{route="/v1/score",status="200"}', 1),
        ):
            assert float(lines[name]) == value, name
        assert float(lines["tsa_history_seconds_count"]) >= 2
        assert float(lines["tsa_batch_payments_sum"]) == 4


def test_payments_are_never_logged(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "tsa"), server(bundle) as (found, port):
        service = found.service

        def broken(*_: Any) -> Any:
            raise RuntimeError("secret-value-4711")

        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            client.post("/v1/score", json=payment("secret-value-4711", amount="secret-value-4711"))
            service.scoring_service.score = broken
            answer = client.post("/v1/score", json=payment("secret-value-4711"))
    assert (answer.status_code, answer.json()["rule"]) == (500, "internal")
    assert "RuntimeError at" in caplog.text
    assert "secret-value-4711" not in caplog.text
    assert "secret-value-4711" not in answer.text


@pytest.mark.parametrize(
    ("policy", "status"),
    [("reject", 503), ("degraded", 200)],
)
def test_without_its_histories_it_does_what_the_market_says(
    bundle: Path, tmp_path: Path, policy: str, status: int
) -> None:
    overrides = (f'serving.on_history_unavailable="{policy}"', "serving.history_timeout_seconds=0.1")
    path = tmp_path / "h.db"
    with endpoint(bundle, history=f"sqlite:///{path}", overrides=overrides) as client:
        assert client.post("/v1/score", json=payment("a")).status_code == 200
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            answer = client.post("/v1/score", json=payment("b"))
            explained = client.post("/v1/score?explain=true", json=payment("c"))
            other.execute("ROLLBACK")
        assert answer.status_code == explained.status_code == status
        if policy == "reject":
            assert answer.json()["rule"] == "history_unavailable"
        else:
            assert answer.json()["degraded"]
            assert explained.json()["reasons"] is None, "they would be of another score"
        assert client.post("/v1/score", json=payment("b")).json()["degraded"] is False


def test_past_the_queue_requests_are_refused_and_late_ones_not_scored(bundle: Path, tmp_path: Path) -> None:
    path, patient = tmp_path / "h.db", ("serving.history_timeout_seconds=30",)
    with server(bundle, history=f"sqlite:///{path}", max_queue=1, overrides=patient) as (found, port):
        assert found.service is not None
        batcher, url = found.service.batcher, f"http://127.0.0.1:{port}/v1/score"
        assert httpx.post(url, json=payment("warm")).status_code == 200
        with ThreadPoolExecutor() as pool, sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")  # the model's thread waits to write its first payment
            first = pool.submit(httpx.post, url, json=payment("first"), timeout=60)
            time.sleep(0.3)
            late = pool.submit(httpx.post, url, json=payment("late"), headers={"x-deadline-ms": "30"}, timeout=60)
            while batcher.waiting < 1:
                time.sleep(0.01)
            over = httpx.post(url, json=payment("over"))
            other.execute("ROLLBACK")
        again = httpx.post(url, json=payment("late")).json()
    assert first.result().status_code == 200
    assert (over.status_code, over.json()["rule"]) == (429, "queue_full")
    assert int(over.headers["retry-after"]) >= 1
    assert (late.result().status_code, late.result().json()["rule"]) == (504, "deadline")
    assert not again["replayed"]


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 0},
        {"max_list": 0},
        {"port": 70_000},
        {"rate": 0.0},
        {"drain_seconds": 20.0, "stop_seconds": 20.0},
        {"ssl_key": Path("key.pem")},
        {"ssl_client_ca": Path("ca.pem")},
        {"batch_wait_ms": -1.0},
    ],
)
def test_settings_out_of_bounds_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must be|needs"):
        ServeSettings.make({"bundle": Path("bundle"), **changes})


def test_a_market_of_logs_needs_a_history_store(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="--history is required"):
        AppState(settings_of(bundle, history=None))
