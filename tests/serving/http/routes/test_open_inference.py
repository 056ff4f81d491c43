"""The Open Inference Protocol: columns as tensors, scores as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.endpoint import CARRIED, WIRE, endpoint, made_bundle, payment
from tsa.inference.scorer import Scorer

ROWS = [payment("a"), payment("b", at="2025-04-20T13:00:00Z", amount=900, country=None)]
INFER = "/v2/models/shop/infer"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("inference") / "bundle")


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    with endpoint(bundle) as found:
        yield found


def tensors(rows: list[dict[str, Any]], inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the tensors that a model says it takes."""
    return [{**tensor, "shape": [len(rows), 1], "data": [[row[tensor["name"]]] for row in rows]} for tensor in inputs]


def test_health_and_what_there_is(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "tsa"
    assert client.get("/v2/models/shop/ready").json()["ready"]
    model = client.get("/v2/models/shop").json()
    assert {tensor["name"]: tensor["datatype"] for tensor in model["inputs"]} == {
        "id": "BYTES",
        "at": "BYTES",
        "customer_id": "BYTES",
        "terminal_id": "BYTES",
        "amount": "FP64",
        "device": "BYTES",
        "country": "BYTES",
        "account_days": "FP64",
    }
    unknown = client.get("/v2/models/bank")
    assert (unknown.status_code, unknown.json()["rule"]) == (404, "unknown_model")


def test_payments_as_tensors_get_the_scorers_scores(client: httpx.Client, bundle: Path) -> None:
    inputs = tensors(ROWS, client.get("/v2/models/shop").json()["inputs"])
    answer = client.post(INFER, json={"id": "r7", "inputs": inputs}).json()
    assert (answer["model_name"], answer["id"]) == ("shop", "r7")
    found = {tensor["name"]: tensor for tensor in answer["outputs"]}
    offline = Scorer.load(bundle).score(ROWS)
    assert found["raw_score"]["data"] == pytest.approx(offline["raw_score"].to_list(), abs=1e-6)
    assert found["raw_score"]["shape"] == [2]
    assert found["id"]["data"] == ["a", "b"]
    one = client.post(INFER, json={"inputs": inputs, "outputs": [{"name": "percentile"}]}).json()["outputs"]
    assert [tensor["name"] for tensor in one] == ["percentile"]
    assert one[0]["data"] == pytest.approx(offline["percentile"].to_list(), abs=1e-6)


def test_a_request_with_a_payment_that_breaks_a_rule_is_refused_with_all_problems(client: httpx.Client) -> None:
    names = client.get("/v2/models/shop").json()["inputs"]
    answer = client.post(INFER, json={"inputs": tensors([payment("x"), payment("y", at="never")], names)})
    problem = answer.json()
    assert (answer.status_code, problem["rule"], problem["error"]) == (422, "bad_time", problem["detail"])
    assert [one["index"] for one in problem["problems"]] == [1]
    again = client.post(INFER, json={"inputs": tensors([payment("x")], names)})
    assert again.status_code == 200


TENSOR = {"name": "id", "datatype": "BYTES", "shape": [1], "data": ["a"]}


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ([], "not_an_object"),
        ({}, "no_inputs"),
        ({"inputs": {}}, "no_inputs"),
        ({"inputs": [1]}, "bad_tensor"),
        ({"inputs": [TENSOR, TENSOR]}, "bad_tensor"),
        ({"inputs": [{**TENSOR, "datatype": "FP16"}]}, "bad_datatype"),
        ({"inputs": [{**TENSOR, "datatype": ["BYTES"]}]}, "bad_datatype"),
        ({"inputs": [{**TENSOR, "data": [1]}]}, "bad_data"),
        ({"inputs": [{**TENSOR, "data": "a"}]}, "bad_data"),
        ({"inputs": [{**TENSOR, "shape": [2]}]}, "bad_shape"),
        ({"inputs": [{**TENSOR, "shape": [True]}]}, "bad_shape"),
        ({"inputs": [TENSOR, {**TENSOR, "name": "at", "shape": [2], "data": ["a", "b"]}]}, "bad_shape"),
        ({"inputs": [{**TENSOR, "shape": [0], "data": []}]}, "empty"),
        ({"inputs": [TENSOR], "outputs": [{"name": "colour"}]}, "unknown_output"),
        ({"inputs": [TENSOR], "outputs": 3}, "unknown_output"),
        ({"inputs": [TENSOR]}, "missing_field"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(client: httpx.Client, body: Any, rule: str) -> None:
    answer = client.post(INFER, json=body)
    assert (answer.status_code, answer.json()["rule"]) == (422, rule), answer.text


def test_binary_tensors_are_refused(client: httpx.Client) -> None:
    answer = client.post(INFER, json={}, headers={"inference-header-content-length": "2"})
    assert (answer.status_code, answer.json()["rule"]) == (415, "binary_tensors")


def test_rows_that_carry_their_own_history(tmp_path: Path) -> None:
    with endpoint(made_bundle(tmp_path / "bundle", WIRE), history=None) as client:
        inputs = client.get("/v2/models/carried").json()["inputs"]
        answer = client.post("/v2/models/carried/infer", json={"inputs": tensors([CARRIED], inputs)})
        assert answer.status_code == 200, answer.text
        alone = client.post("/v1/score", json=CARRIED).json()["raw_score"]
        assert answer.json()["outputs"][0]["data"] == pytest.approx([alone], abs=1e-7)
