"""The analysts' queue over a real connection: who sees what, leases, outcomes, hand-ons, and erasing."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from support.endpoint import SHOP, WIRE, made_bundle, payment, server, settings_of
from tsa.bundle.bundle import set_decision_policy
from tsa.cli import app
from tsa.errors import ConfigError
from tsa.serving.analyst_queue.case_database import FILE
from tsa.serving.decisions.entries import OUTCOMES
from tsa.serving.decisions.parquet_files import read_table
from tsa.serving.scoring.app_state import AppState
from tsa.serving.settings import ServeSettings

ANN, BEA, SHOP_TOKEN = "ann-token-0123456789", "bea-token-0123456789", "score-token-0123456789"
FUZZ = 100_000 if os.environ.get("TSA_LONG") else 150
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = made_bundle(tmp_path_factory.mktemp("queue") / "bundle")
    set_decision_policy(path, ["review=0.0000001"], score="raw_score")  # every payment becomes a case
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"{SHOP_TOKEN}\n{ANN} analyst ann\n{BEA} analyst bea\n")
    return path


class Site:
    """A server with a queue, and its clients."""

    def __init__(self, port: int, folder: Path) -> None:
        self.url, self.folder = f"http://127.0.0.1:{port}", folder
        self.shop, self.ann, self.bea = (
            httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {token}"}, timeout=30)
            for token in (SHOP_TOKEN, ANN, BEA)
        )

    def score(self, *rows: dict[str, Any]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = self.shop.post("/v1/score", json=list(rows)).json()
        return answers

    def cases(self, **filters: Any) -> dict[str, Any]:
        answer = self.ann.get("/v1/queue", params=filters)
        assert answer.status_code == 200, answer.text
        listed: dict[str, Any] = answer.json()
        return listed

    def wait(self, count: int, **filters: Any) -> list[dict[str, Any]]:
        """The cases, once there are this many."""
        end = time.monotonic() + 60
        while (listed := self.cases(**filters))["total"] != count:
            assert time.monotonic() < end, listed
            time.sleep(0.02)
        cases: list[dict[str, Any]] = listed["cases"]
        return cases

    def claim(self, who: httpx.Client, **body: Any) -> httpx.Response:
        return who.post("/v1/queue/claim", json=body)

    def decide(self, who: httpx.Client, id_: str, answer: str) -> httpx.Response:
        return who.post("/v1/queue/decide", json={"id": id_, "answer": answer})


@pytest.fixture
def site(bundle: Path, tokens: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    options = {"token_files": (tokens,), "decision_log": tmp_path / "log", "decision_log_sync": True, "queue": True}
    options |= getattr(request, "param", {})
    with server(bundle, history=f"sqlite:///{tmp_path}/h.db", **options) as (_, port):
        yield Site(port, tmp_path)


def test_cases_are_ranked_by_expected_loss_and_filtered(site: Site) -> None:
    answers = site.score(*(payment(f"p{at}", amount=10.0**at, at=f"2025-04-2{at}") for at in range(4)))
    cases = site.wait(4)
    expected = {f"p{at}": answer["probability"] * 10.0**at for at, answer in enumerate(answers)}
    assert [case["id"] for case in cases] == sorted(expected, key=lambda id_: -expected[id_])
    assert cases[0]["expected_loss"] == pytest.approx(expected[cases[0]["id"]])
    assert cases[0]["keys"] == [["customer", "ann"], ["terminal", "t1"]]
    assert (cases[0]["values"]["device"], cases[0]["decision"], cases[0]["held_by"]) == ("phone", "review", None)
    site.score(payment("p0", amount=1.0, at="2025-04-20"), payment("other", customer_id="Zoë", amount="much"))
    assert len(site.wait(4)) == 4, "a repeated or rejected payment is no new case"
    least = sorted(expected.values())[1]
    assert site.cases(min_loss=least - 1e-9)["total"] == 3
    assert [case["id"] for case in site.cases(text="P2")["cases"]] == ["p2"]
    assert (
        site.cases(text="%")["total"]
        == site.cases(decision="decline")["total"]
        == site.cases(state="done")["total"]
        == 0
    )
    for filters in ({"state": "gone"}, {"min_loss": "nan"}, {"min_loss": "-1"}, {"who": "x"}, {"text": "x" * 300}):
        assert (refused := site.ann.get("/v1/queue", params=filters)).status_code == 422, refused.text


def test_an_analyst_sees_the_evidence_and_decides(site: Site) -> None:
    for day in range(1, 5):
        site.score(payment(f"e{day}", at=f"2025-04-{day + 10}T08:00:00Z", amount=20.0 * day))
    site.shop.post("/v1/outcome", json={"id": "e2", "fraud": True, "at": "2025-04-14"})
    answer = site.score(payment("now", amount=5000.0))[0]
    site.wait(4)
    explained = site.shop.post("/v1/score?explain=true", json=payment("now", amount=5000.0)).json()
    case = site.claim(site.ann).json()["case"]
    assert (case["id"], case["raw_score"], case["held_by"]) == ("now", answer["raw_score"], "ann")
    assert [one["text"] for one in case["reasons"]] == [one["text"] for one in explained["reasons"]]
    assert case["histories"] == explained["explanation"]["histories"]
    assert case["explained_by"] == answer["version"]
    similar = {one["id"]: one for one in case["similar"]}
    assert set(similar) == {"e1", "e2", "e3", "e4"}
    assert similar["e2"]["outcome"] == "fraud"
    assert similar["e4"]["shares"] == ["customer", "terminal"]
    assert similar["e4"]["same"] == ["device", "country"]
    decided = site.decide(site.ann, "now", "fraud")
    assert decided.json() == {"id": "now", "state": "fraud", "by": "ann", "stored": True}
    (row,) = read_table(site.folder / "log", OUTCOMES).filter(id="now").iter_rows(named=True)
    assert (row["fraud"], row["by"]) == (True, "ann")
    assert abs(row["known_at"].timestamp() - time.time()) < 60
    soon = datetime.fromtimestamp(time.time() + 60, UTC).isoformat()
    later = site.shop.post("/v1/score?explain=true", json=payment("later", at=soon)).json()
    events = later["explanation"]["histories"][0]["events"]
    assert {event["id"]: event["outcome"] for event in events}["now"] == "fraud", "later payments see it"
    done = site.wait(2, state="done")
    assert {(case["id"], case["state"], case["changed_by"]) for case in done} >= {("now", "fraud", "ann")}


def test_two_analysts_never_get_the_same_payment(site: Site) -> None:
    site.score(*(payment(f"p{at}", customer_id=f"c{at}") for at in range(6)))
    site.wait(6)
    first = site.claim(site.ann).json()["case"]["id"]
    second = site.claim(site.bea).json()["case"]["id"]
    assert first != second
    refused = site.claim(site.bea, id=first)
    assert (refused.status_code, refused.json()["rule"]) == (409, "leased")
    for answer in ("fraud", "later"):
        assert site.decide(site.bea, first, answer).status_code == 409
    assert {case["id"]: case["held_by"] for case in site.cases()["cases"]}[second] is None, (
        "a refused claim ends the old one"
    )
    assert site.decide(site.ann, first, "later").json()["state"] == "later"
    assert [case["id"] for case in site.cases(state="later")["cases"]] == [first]
    with ThreadPoolExecutor(4) as pool:
        pairs = [pool.submit(site.claim, who) for who in (site.ann, site.bea) for _ in range(1)]
        ids = [pair.result().json()["case"]["id"] for pair in pairs]
    assert len(set(ids)) == 2
    for id_ in [case["id"] for case in site.cases()["cases"]]:
        site.claim(site.ann, id=id_)
        site.decide(site.ann, id_, "genuine")
    assert site.claim(site.ann).json() == {"case": None} or site.cases()["total"] == 1


def test_several_workers_share_leases_that_end(tmp_path: Path) -> None:
    from tsa.serving.analyst_queue.case_database import CaseDatabase, CaseFilter
    from tsa.serving.analyst_queue.cases import Case

    now = [1000.0]
    databases = [CaseDatabase(tmp_path, lambda: now[0]) for _ in range(3)]
    fields: dict[str, Any] = {"scored_at": 1.0, "time": 1.0, "amount": 5.0, "percentile": None, "probability": None}
    fields |= {"decision": None, "version": "v", "arm": "champion", "degraded": False, "keys": [], "values": {}}
    databases[0].add([Case(id=f"p{at}", raw_score=at / 100, **fields) for at in range(40)])
    taken: list[str] = []

    def work(at: int) -> None:
        for _ in range(10):
            case = databases[at % 3].claim(CaseFilter(), f"analyst{at}", 60)
            assert case is not None
            taken.append(case["id"])
            databases[at % 3].set_state(case["id"], "fraud", f"analyst{at}")

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"p{at}" for at in range(40))
    databases[0].add([Case(id="last", raw_score=0.5, **fields)])
    assert databases[0].claim(CaseFilter(), "ann", 60) is not None
    assert databases[1].claim(CaseFilter(), "bea", 60) is None
    now[0] += 61
    assert databases[2].claim(CaseFilter(), "bea", 60) is not None
    assert not databases[0].extend("last", "ann", 60)
    for database in databases:
        database.close()


def test_an_outcome_from_elsewhere_closes_its_case(site: Site) -> None:
    site.score(payment("a"), payment("b"))
    site.wait(2)
    assert site.ann.post("/v1/outcome", json={"id": "a", "fraud": False}).status_code == 200
    assert [case["id"] for case in site.wait(1)] == ["b"]
    (case,) = site.cases(state="done")["cases"]
    assert (case["state"], case["changed_by"]) == ("genuine", "ann")
    assert site.decide(site.ann, "a", "fraud").json()["state"] == "fraud", "an answer can be corrected"
    assert read_table(site.folder / "log", OUTCOMES)["fraud"].to_list() == [False, True]


def test_values_cannot_become_formulas_markup_or_log_lines(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tsa")
    site.score(payment("=cmd()", customer_id=HOSTILE, device="@SUM(A1)", amount=3.5))
    site.wait(1)
    answer = site.ann.get("/v1/queue/cases.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row["id"] == "'=cmd()"
    assert float(row["amount"]) == 3.5
    assert row["time"] == "2025-04-20T12:00:00.000+00:00"
    assert json.loads(row["keys"])[0] == ["customer", HOSTILE]
    listed = site.ann.get("/v1/queue")
    assert listed.headers["content-type"] == "application/json"
    assert listed.headers["x-content-type-options"] == "nosniff"
    refused = site.decide(site.ann, f"{HOSTILE}\r\nX-Evil: 1", "fraud")
    assert refused.status_code == 404
    assert "x-evil" not in refused.headers
    site.score(payment("line\r\n2026-01-01 ERROR fake"))
    site.wait(2)
    assert site.decide(site.ann, "line\r\n2026-01-01 ERROR fake", "genuine").status_code == 200
    assert site.claim(site.ann, id="=cmd()").status_code == 200
    for word in ("X-Evil", "fake", "cmd()", "onerror"):
        assert word not in caplog.text, "no value of a payment is logged"


class Hook(BaseHTTPRequestHandler):
    """A webhook that keeps what it gets."""

    got: list[tuple[dict[str, Any], bytes, str | None]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).got.append((json.loads(body), body, self.headers.get("x-tsa-signature")))
        self.send_response(type(self).status)
        self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_case_is_handed_on(bundle: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    Hook.got = []
    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{hook.server_address[1]}/cases"
    options: dict[str, Any] = {"queue_webhook": url, "queue_webhook_secret_env": "HOOK_SECRET", "queue": True}
    options |= {"token_files": (tokens,), "decision_log": tmp_path / "log"}
    with server(bundle, history=f"sqlite:///{tmp_path}/h.db", **options) as (_, port):
        site = Site(port, tmp_path)
        site.score(payment("a"))
        site.wait(1)
        for status, answered in ((500, 502), (302, 502), (200, 200)):
            Hook.status = status
            answer = site.ann.post("/v1/queue/hand-on", json={"id": "a"})
            assert answer.status_code == answered, answer.text
            assert site.cases()["total"] == (status != 200)
        assert url not in answer.text
        assert site.cases(state="handed on")["cases"][0]["changed_by"] == "ann"
    hook.shutdown()
    hook.server_close()
    document, body, signature = Hook.got[-1]
    assert len(Hook.got) == 3, "no redirect is followed"
    assert (document["by"], document["case"]["id"]) == ("ann", "a")
    assert signature == f"sha256={hmac.new(b's3cret', body, hashlib.sha256).hexdigest()}"


def test_what_a_crash_lost_is_read_from_the_log(bundle: Path, tokens: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"token_files": (tokens,), "decision_log": tmp_path / "log", "decision_log_sync": True}
    history = f"sqlite:///{tmp_path}/h.db"
    with server(bundle, history=history, **options) as (_, port):
        site = Site(port, tmp_path)
        site.score(payment("a"), payment("b"))
        site.shop.post("/v1/outcome", json={"id": "b", "fraud": True})
        assert site.ann.get("/v1/queue").json()["rule"] == "no_queue"
    with server(bundle, history=history, **options, queue=True) as (_, port):
        site = Site(port, tmp_path)
        (case,) = site.wait(1)
        assert case["id"] == "a"
        assert case["values"]["amount"] == 12.5
        assert site.cases(state="done")["cases"][0]["state"] == "fraud"
        assert site.claim(site.ann).json()["case"]["reasons"]
    with server(bundle, history=history, **options) as (_, port):  # the queue does not get this outcome
        Site(port, tmp_path).shop.post("/v1/outcome", json={"id": "a", "fraud": False})
    with server(bundle, history=history, **options, queue=True) as (_, port):
        site = Site(port, tmp_path)
        site.wait(0)
        assert {case["id"]: case["state"] for case in site.cases(state="done")["cases"]} == {
            "a": "genuine",
            "b": "fraud",
        }


def test_pseudonyms_are_all_that_is_there_and_erased_is_erased(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", "x" * 40)
    privacy = {"pseudonymise": ["id", "customer_id"], "secret_env": "SHOP_SECRET"}
    path = made_bundle(tmp_path / "bundle", {**SHOP, "privacy": privacy})
    set_decision_policy(path, ["review=0.0000001"], score="raw_score")
    log, history = tmp_path / "log", f"sqlite:///{tmp_path}/h.db"
    options: dict[str, Any] = {"token_files": (tokens,), "decision_log": log, "decision_log_sync": True, "queue": True}
    with server(path, history=history, **options) as (_, port):
        site = Site(port, tmp_path)
        site.score(payment("mine-1", customer_id="anna-secret"), payment("other", customer_id="bob-secret"))
        cases = site.wait(2)
        assert not {"mine-1", "other"} & {case["id"] for case in cases}
        opened = site.claim(site.ann, id=cases[0]["id"]).json()["case"]
        assert opened["reasons"], "a pseudonym is explained as it is"
        assert site.decide(site.ann, opened["id"], "fraud").json()["stored"]
        words = ["history", "delete", "--history", history, "--key", "customer=anna-secret", "--decisions", str(log)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        left = {case["id"] for state in ("open", "done") for case in site.cases(state=state)["cases"]}
        assert len(left) == 1
        (gone,) = {case["id"] for case in cases} - left
    for file in (log / FILE, log / f"{FILE}-wal"):
        data = file.read_bytes() if file.exists() else b""
        assert b"secret" not in data
        assert gone.encode() not in data
    assert CliRunner().invoke(app, ["decisions", "prune", str(log), "--days", "1e-9"]).exit_code == 0
    with sqlite3.connect(log / FILE) as link:
        assert link.execute("SELECT count(*) FROM cases").fetchone() == (0,)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"queue": True}, "--queue needs --decision-log FOLDER"),
        ({"queue_over": "probability=0.2"}, "--queue-over needs --queue"),
        ({"queue": True, "decision_log": Path("log"), "queue_webhook": "file:///etc/passwd"}, "must be an address"),
        ({"queue": True, "decision_log": Path("log"), "queue_lease_minutes": 0.0}, "must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ServeSettings.make({"bundle": Path("bundle"), **changes})


def test_a_market_without_stored_histories_has_no_queue(tmp_path: Path) -> None:
    path = made_bundle(tmp_path / "bundle", WIRE)
    with pytest.raises(ConfigError, match="stored histories"):
        AppState(ServeSettings.make({"bundle": path, "queue": True, "decision_log": tmp_path / "log"}))


def test_a_queue_that_nobody_can_open_is_warned_of(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = f"sqlite:///{tmp_path}/h.db"
    AppState(settings_of(bundle, history=history, queue=True, decision_log=tmp_path / "log")).close()
    assert "no token has the role analyst" in caplog.text


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["p0", "fraud", "'; --"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["id", "answer", "state", "decision", "min_loss", "text"]) | st.text(max_size=8)


def test_no_request_breaks_the_queue(site: Site) -> None:
    """Odd bodies and queries: never a 500, and the queue still answers."""
    site.score(payment("p0"))
    site.wait(1)

    @settings(max_examples=FUZZ, deadline=None, derandomize=True, database=None)
    @given(
        path=st.sampled_from(["claim", "decide", "hand-on", "", "cases.csv"]),
        body=st.dictionaries(NAMES, ODD, max_size=4) | ODD | st.binary(max_size=40),
    )
    def tried(path: str, body: Any) -> None:
        if path in ("", "cases.csv"):
            query = (
                {name: str(value) for name, value in body.items()} if isinstance(body, dict) else {"text": str(body)}
            )
            query = {name.encode("utf-8", "replace"): value.encode("utf-8", "replace") for name, value in query.items()}
            answer = site.ann.get(f"/v1/queue/{path}".rstrip("/"), params=query)  # type: ignore[arg-type]
        else:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"content-type": "application/json"}
            answer = site.ann.post(f"/v1/queue/{path}", content=content, headers=headers)
        assert answer.status_code < 500, (path, body, answer.text)

    tried()
    assert site.ann.get("/v1/queue").status_code == 200
