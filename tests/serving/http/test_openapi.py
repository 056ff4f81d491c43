"""What the OpenAPI document promises, held against it: never a 500, and each answer as it is described."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.endpoint import PAYMENT, SHOP, WIRE, endpoint, made_bundle, payment, server


def never_500(context: Any, response: Any, case: Any) -> None:
    """A deadline of a millisecond may be missed (504); nothing that is sent may break anything."""
    assert response.status_code in (504, 503) or response.status_code < 500, response.text


CHECKS = [never_500, status_code_conformance, content_type_conformance, response_schema_conformance]
QUIET = settings(
    max_examples=25 if os.environ.get("TSA_LONG") else 8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def promises_kept(url: str, headers: dict[str, str]) -> int:
    """Hold every operation of the document of a server against it; how many requests that took."""
    count = 0
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers).get_all_operations():
        operation = found.ok()

        @QUIET
        @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE) | operation.as_strategy())
        def keeps(case: Any) -> None:
            nonlocal count
            count += 1
            case.call_and_validate(checks=CHECKS, headers=headers)

        keeps()
    return count


def test_a_market_of_logs_keeps_its_promises(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("every-token-0123456789 score,analyst,admin")
    options: dict[str, Any] = {"token_files": (tmp_path / "tokens",), "decision_log": tmp_path / "log", "queue": True}
    options["queue_over"] = "raw_score=0"
    with server(made_bundle(tmp_path / "bundle"), **options) as (_, port):
        headers = {"authorization": "Bearer every-token-0123456789"}
        assert promises_kept(f"http://127.0.0.1:{port}", headers) > 60


def test_a_market_of_rows_with_histories_keeps_its_promises(tmp_path: Path) -> None:
    with server(made_bundle(tmp_path / "bundle", WIRE), history=None) as (_, port):
        assert promises_kept(f"http://127.0.0.1:{port}", {}) > 60


def test_the_examples_of_the_document_are_answered(tmp_path: Path) -> None:
    for name, table in (("shop", SHOP), ("carried", WIRE)):
        bundle = made_bundle(tmp_path / name / "bundle", table)
        with endpoint(bundle, history=f"sqlite:///{tmp_path}/{name}.db" if name == "shop" else None) as client:
            document = client.get("/openapi.json").json()
            schemas = document["components"]["schemas"]
            for path in ("/v1/score", "/invocations"):
                example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
                answer = client.post(path, json=example)
                assert answer.status_code == 200, answer.text
            (tensors,) = schemas["Inference"]["examples"]
            answer = client.post(f"/v2/models/{name}/infer", json=tensors)
            assert answer.status_code == 200, answer.text
            if name == "shop":
                assert client.post("/v1/outcome", json=schemas["Outcome"]["examples"][0]).status_code == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates().map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ODD_ROWS = st.dictionaries(st.sampled_from([*PAYMENT]), VALUES).map(lambda changes: {**PAYMENT, **changes})
BODIES = ODD_ROWS | st.lists(ODD_ROWS | VALUES, max_size=4) | VALUES


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with endpoint(made_bundle(tmp_path_factory.mktemp("odd") / "bundle")) as found:
        yield found


@settings(QUIET, max_examples=100)
@given(
    body=BODIES,
    path=st.sampled_from(["/v1/score", "/v1/score/flat", "/invocations", "/v1/outcome", "/v2/models/shop/infer"]),
)
def test_any_json_is_answered_or_refused(client: httpx.Client, body: Any, path: str) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post(path, content=json.dumps(body), headers=headers)
    assert answer.status_code in (200, 400, 404, 409, 413, 422), (answer.status_code, answer.text)
    if answer.status_code == 200 and path == "/v1/score" and isinstance(body, list):
        assert len(answer.json()) == len(body)
        assert all(("raw_score" in one) != ("problem" in one) for one in answer.json())


@settings(QUIET, max_examples=60)
@given(
    content=st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode),
    kind=st.sampled_from(["application/json", "application/jsonlines", "text/csv", "application/x-parquet"])
    | st.text(string.ascii_letters + "/;=-", max_size=20),
    accept=st.sampled_from(["*/*", "text/csv", "application/json", ""]) | st.text(string.printable[:95], max_size=20),
)
def test_any_bytes_under_any_headers_are_answered_or_refused(
    client: httpx.Client, content: bytes, kind: str, accept: str
) -> None:
    answer = client.post("/invocations", content=content, headers={"content-type": kind, "accept": accept})
    assert answer.status_code in (200, 400, 406, 413, 415, 422), (answer.status_code, answer.text)


def test_a_bad_payment_costs_the_others_of_its_batch_nothing(client: httpx.Client) -> None:
    rows = [payment("good"), *({**PAYMENT, "id": f"bad{at}", "amount": "x"} for at in range(5)), payment("fine")]
    found = client.post("/v1/score", json=rows).json()
    assert [one.get("id") for one in found] == ["good", *[None] * 5, "fine"]
