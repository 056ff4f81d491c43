"""POST /v1/score and /v1/outcome: what payments get, alone, in lists, and with histories of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.endpoint import CARRIED, WIRE, endpoint, made_bundle, payment, server
from tsa.inference.scorer import Scorer

LINES = {"content-type": "application/jsonlines"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("score") / "bundle")


@pytest.fixture
def client(bundle: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with endpoint(bundle, history=f"sqlite:///{tmp_path}/h.db") as found:
        yield found


def test_a_payment_gets_the_scores_that_the_scorer_gives(client: httpx.Client, bundle: Path) -> None:
    answer = client.post("/v1/score", json=payment("a"))
    offline = Scorer.load(bundle).score([payment("a")]).row(0, named=True)
    assert answer.status_code == 200
    found = answer.json()
    assert found["id"] == "a"
    for name in ("raw_score", "percentile", "probability"):
        assert found[name] == pytest.approx(offline[name], abs=1e-6)
    sealed = json.loads((bundle / "manifest.json").read_text())["sha256"]
    assert found["version"] == sealed[:12]
    assert (found["degraded"], found["replayed"]) == (False, False)


def test_later_payments_see_the_earlier_ones_of_their_keys(client: httpx.Client, bundle: Path) -> None:
    rows = [payment(f"s{at}", at=f"2025-04-20T12:0{at}:00Z", amount=10.0 ** (at % 3)) for at in range(6)]
    online = [client.post("/v1/score", json=row).json()["raw_score"] for row in rows]
    offline = Scorer.load(bundle).score(rows)["raw_score"].to_list()
    assert online == pytest.approx(offline, abs=1e-6)
    assert len(set(online)) == 6


def test_a_list_gets_an_answer_or_a_problem_for_each(client: httpx.Client) -> None:
    rows: list[Any] = [payment("a"), payment("b", amount="much"), 7, payment("c")]
    answer = client.post("/v1/score", json=rows)
    assert answer.status_code == 200
    first, second, third, last = answer.json()
    assert (first["id"], last["id"]) == ("a", "c")
    problem = second["problem"]
    assert (problem["rule"], problem["field"], problem["value"], problem["status"]) == (
        "not_a_number",
        "amount",
        "'much'",
        422,
    )
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert third["problem"]["rule"] == "not_an_object"


def test_json_lines_get_json_lines(client: httpx.Client) -> None:
    body = "\n".join([json.dumps(payment("a")), "", "{broken", json.dumps(payment("b"))])
    answer = client.post("/v1/score", content=body, headers=LINES)
    assert answer.headers["content-type"] == "application/jsonlines"
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [one.get("id") for one in found] == ["a", None, "b"]
    assert found[1]["problem"]["rule"] == "not_json"
    as_json = client.post("/v1/score", content=body, headers={**LINES, "accept": "application/json"}).json()
    assert [one.get("replayed") for one in as_json] == [True, None, True]


def test_the_same_payment_again_gets_its_answer_again(client: httpx.Client) -> None:
    first, again = (client.post("/v1/score", json=payment("a")).json() for _ in range(2))
    assert again == {**first, "replayed": True}
    other = client.post("/v1/score", json=payment("a", amount=99))
    assert (other.status_code, other.json()["rule"]) == (409, "conflicting_id")


def test_histories_of_its_own_take_the_place_of_the_stored_ones(client: httpx.Client, bundle: Path) -> None:
    earlier = [payment(f"e{at}", at=f"2025-04-20T11:0{at}:00Z") for at in range(3)]
    whole = {"payment": payment("a"), "histories": {"customer": earlier, "terminal": earlier}}
    online = client.post("/v1/score", json=whole).json()
    offline = Scorer.load(bundle).score([*earlier, payment("a")])["raw_score"].to_list()[-1]
    assert online["raw_score"] == pytest.approx(offline, abs=1e-6)
    bare = client.post("/v1/score", json=payment("a")).json()
    assert not bare["replayed"]
    assert bare["raw_score"] != pytest.approx(online["raw_score"], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "rule", "field"),
    [
        ({"amount": "x"}, "not_a_number", "amount"),
        ({"at": "yesterday"}, "bad_time", "at"),
        ({"at": None}, "null_time", "at"),
        ({"at": "2999-01-01"}, "absurd_time", "at"),
        ({"id": None}, "null_id", "id"),
        ({"device": ["phone"]}, "not_a_text", "device"),
        ({"device": "x" * 5000}, "too_long", "device"),
        ({"amount": -1.5}, "out_of_range", "amount"),
        ({"customer_id": 1e300}, "inexact_number", "customer_id"),
        ({"device": [[[[[[[[1]]]]]]]]}, "too_deep", "device"),
    ],
)
def test_a_payment_that_breaks_a_rule_is_refused(
    client: httpx.Client, changes: dict[str, Any], rule: str, field: str
) -> None:
    answer = client.post("/v1/score", json=payment("a", **changes))
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert (problem["rule"], problem["field"], problem["type"]) == (rule, field, f"urn:tsa:problem:{rule}")
    assert problem["status"] == 422
    assert problem["title"]
    assert len(problem["value"]) <= 40
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_a_missing_field_is_refused_by_name(client: httpx.Client) -> None:
    row = payment("a")
    del row["country"]
    problem = client.post("/v1/score", json=row).json()
    assert (problem["rule"], problem["field"]) == ("missing_field", "country")


def test_a_payment_in_the_future_is_refused(client: httpx.Client) -> None:
    from datetime import UTC, datetime, timedelta

    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert client.post("/v1/score", json=payment("a", at=at)).json()["rule"] == "future_time"


def test_unknown_fields_are_ignored_or_refused_as_the_market_says(bundle: Path, tmp_path: Path) -> None:
    row = payment("a", colour={"deep": [1]})
    with endpoint(bundle, history=f"sqlite:///{tmp_path}/1.db") as client:
        assert client.post("/v1/score", json=row).status_code == 200
    strict = ('serving.unknown_fields="refuse"',)
    with endpoint(bundle, history=f"sqlite:///{tmp_path}/2.db", overrides=strict) as client:
        problem = client.post("/v1/score", json=row).json()
        assert (problem["rule"], problem["field"]) == ("unknown_field", "colour")


def test_a_payment_much_earlier_than_the_last_one_is_refused_where_the_market_says_so(
    bundle: Path, tmp_path: Path
) -> None:
    with endpoint(bundle, history=f"sqlite:///{tmp_path}/h.db", overrides=("serving.max_late_days=1",)) as client:
        assert client.post("/v1/score", json=payment("a")).status_code == 200
        problem = client.post("/v1/score", json=payment("b", at="2025-04-17T00:00:00Z")).json()
        assert (problem["rule"], problem["field"]) == ("too_late", "at")


@pytest.mark.parametrize(
    ("content", "headers", "status", "rule"),
    [
        (b"{", {}, 400, "not_json"),
        (b"", {}, 400, "not_json"),
        (b"\xff", {}, 400, "not_json"),
        (b"[" * 2000, {}, 400, "not_json"),
        (b"[]", {}, 422, "empty"),
        (b"3", {}, 422, "not_an_object"),
        (b"{}", {"content-type": "text/plain"}, 415, "content_type"),
        (b"{}", {"content-type": "application/json; charset=latin-1"}, 415, "content_type"),
        (b"{}", {"accept": "image/png"}, 406, "accept"),
        (b"{}", {"x-deadline-ms": "soon"}, 400, "deadline_header"),
        (b"{}", {"x-deadline-ms": "0"}, 400, "deadline_header"),
        (b"[" + b"1," * 1500 + b"1]", {}, 413, "too_many"),
    ],
)
def test_a_body_or_header_that_cannot_be_used_is_refused(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int, rule: str
) -> None:
    answer = client.post("/v1/score", content=content, headers={"content-type": "application/json", **headers})
    assert (answer.status_code, answer.json()["rule"]) == (status, rule)
    assert answer.headers["content-type"] == "application/problem+json"


def test_no_answer_tells_of_paths_or_code(client: httpx.Client, bundle: Path) -> None:
    for content in (b"{", b"[]", b"3", b'{"payment": {}, "histories": 3}'):
        text = client.post("/v1/score", content=content, headers={"content-type": "application/json"}).text
        assert "Traceback" not in text
        assert str(bundle.parent) not in text
        assert ".py" not in text


def test_an_outcome_is_seen_by_later_payments(client: httpx.Client) -> None:
    def later(id_: str) -> float:
        return client.post("/v1/score", json=payment(id_, at="2025-04-25T12:00:00Z")).json()["raw_score"]

    client.post("/v1/score", json=payment("a"))
    told = client.post("/v1/outcome", json={"id": "a", "fraud": True, "at": "2025-04-22T00:00:00Z"})
    assert (told.status_code, told.json()) == (200, {"id": "a", "fraud": True})
    with_fraud = later("b")
    client.post("/v1/outcome", json={"id": "a", "fraud": False, "at": "2025-04-23T00:00:00Z"})
    # b is in the history of c, as a was: what differs is the outcome of a
    assert later("c") != pytest.approx(with_fraud, abs=1e-7)


@pytest.mark.parametrize(
    ("body", "status", "rule"),
    [
        ({"id": "nobody", "fraud": True}, 404, "unknown_payment"),
        ({"id": "a"}, 422, "bad_outcome"),
        ({"id": "a", "fraud": "yes"}, 422, "bad_outcome"),
        ({"id": None, "fraud": True}, 422, "null_id"),
        ({"id": "a", "fraud": True, "at": "never"}, 422, "bad_time"),
        ({"id": "a", "fraud": True, "at": "2999-01-01"}, 422, "future"),
        ({"id": "a", "fraud": True, "by": "me"}, 422, "unknown_field"),
        ([], 422, "not_an_object"),
    ],
)
def test_an_outcome_that_says_nothing_is_refused(client: httpx.Client, body: Any, status: int, rule: str) -> None:
    answer = client.post("/v1/outcome", json=body)
    assert (answer.status_code, answer.json()["rule"]) == (status, rule)


def test_reasons_come_with_the_answer_that_asks_for_them(client: httpx.Client) -> None:
    client.post("/v1/score", json=payment("e", at="2025-04-20T11:00:00Z", amount=900))
    plain = client.post("/v1/score", json=payment("a")).json()
    found = client.post("/v1/score?explain=true", json=payment("a")).json()
    assert found["raw_score"] == plain["raw_score"]
    assert {reason["code"] for reason in found["reasons"]}
    assert all(reason["text"] for reason in found["reasons"])
    customer = next(one for one in found["explanation"]["histories"] if one["name"] == "customer")
    assert [event["id"] for event in customer["events"]] == ["e"]
    assert "reasons" not in plain
    assert client.post("/v1/score?explain=maybe", json=payment("a")).json()["rule"] == "query"
    many = client.post("/v1/score?explain=1", json=[payment(f"m{at}") for at in range(17)])
    assert (many.status_code, many.json()["rule"]) == (413, "too_many")


def test_a_score_is_given_even_where_there_is_no_time_for_reasons(bundle: Path, tmp_path: Path) -> None:
    with server(bundle, history=f"sqlite:///{tmp_path}/h.db") as (found, port), ThreadPoolExecutor() as pool:
        assert found.service is not None
        url = f"http://127.0.0.1:{port}/v1/score?explain=true"
        httpx.post(url, json=payment("warm"))
        many = [
            pool.submit(httpx.post, url, json=[payment(f"m{at}{of}") for at in range(6)], timeout=60) for of in "ab"
        ]
        time.sleep(0.05)
        answer = httpx.post(url, json=payment("a"), headers={"x-deadline-ms": "150"}, timeout=60)
        assert sorted(one.status_code for one in (answer, *(task.result() for task in many))) == [200, 200, 200]
    assert answer.json()["raw_score"] > 0
    told = [one for task in many for one in task.result().json()]
    assert all(one["raw_score"] > 0 for one in told)
    assert any(one["reasons"] is None for one in (answer.json(), *told))


def test_rows_that_carry_their_own_history_need_no_store(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle", WIRE)
    with endpoint(bundle, history=None) as client:
        offline = Scorer.load(bundle).score([CARRIED]).row(0, named=True)
        answer = client.post("/v1/score", json=CARRIED)
        assert answer.json()["raw_score"] == pytest.approx(offline["raw_score"], abs=1e-6)
        bad = client.post("/v1/score", json={**CARRIED, "hist.amount": "1~2~3"})
        assert (bad.status_code, bad.json()["rule"]) == (422, "history_length"), bad.text
        both = client.post("/v1/score", json=[CARRIED, {**CARRIED, "amount": "x"}]).json()
        assert both[0]["raw_score"] == answer.json()["raw_score"]
        assert both[1]["problem"]["field"] == "amount"
        assert client.post("/v1/outcome", json={"id": "p1", "fraud": True}).json()["rule"] == "own_history"
        told = client.post("/v1/score?explain=true", json=CARRIED).json()
        assert told["reasons"]


def test_rows_that_carry_their_own_history_keep_the_markets_rules_too(tmp_path: Path) -> None:
    bundle, now = made_bundle(tmp_path / "bundle", WIRE), int(time.time())
    strict = ('serving.unknown_fields="refuse"', "serving.max_future_seconds=60")
    early, late = {**CARRIED, "at": str(now + 30)}, {**CARRIED, "at": str(now + 600)}
    with endpoint(bundle, history=None, overrides=strict) as client:
        found = client.post(
            "/v1/score", json=[early, late, {**CARRIED, "colour": "red"}, {**CARRIED, "fraud": "0"}]
        ).json()
    assert [one.get("problem", {}).get("rule") for one in found] == [None, "future_time", "unknown_field", None]
    assert (found[1]["problem"]["field"], found[2]["problem"]["field"]) == ("at", "colour")
    with endpoint(bundle, history=None) as client:
        assert client.post("/v1/score", json={**CARRIED, "colour": "red"}).status_code == 200


def test_flat_scores_are_a_bare_list(client: httpx.Client) -> None:
    rows = [payment("a"), payment("b", amount=900.0)]
    bare = client.post("/v1/score/flat", json=rows)
    assert bare.status_code == 200
    assert bare.json() == [answer["probability"] for answer in client.post("/v1/score", json=rows).json()]
    assert client.post("/v1/score/flat", json=rows[0]).json() == bare.json()[:1]
    refused = client.post("/v1/score/flat", json=[payment("c"), payment("d", amount="much")])
    assert (refused.status_code, refused.json()["field"]) == (422, "amount")
    assert client.post("/v1/score/flat", content=b"1", headers=LINES).status_code == 415
    assert client.post("/v1/score/flat", json=[payment(f"x{at}") for at in range(1001)]).status_code == 413
