"""The Open Inference Protocol as its reference client speaks it: scores come back, and refusals are told in its own words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.endpoint import made_bundle, payment, server
from tsa.inference.scorer import Scorer

triton = pytest.importorskip("tritonclient.http")
utils = pytest.importorskip("tritonclient.utils")

ROWS = [payment("a"), payment("b", at="2025-04-20T13:00:00Z", amount=900.0, country="FR")]
KINDS = {"BYTES": np.object_, "FP64": np.float64}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("triton") / "bundle")


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[Any]:
    with server(bundle) as (_, port):
        found = triton.InferenceServerClient(f"127.0.0.1:{port}")
        yield found
        found.close()


def inputs(client: Any, rows: list[dict[str, Any]], *, binary: bool = False) -> list[Any]:
    found = []
    for tensor in client.get_model_metadata("shop")["inputs"]:
        made = triton.InferInput(tensor["name"], [len(rows)], tensor["datatype"])
        values = [row[tensor["name"]] for row in rows]
        texts = [str(value) for value in values] if tensor["datatype"] == "BYTES" else values
        made.set_data_from_numpy(np.array(texts, KINDS[tensor["datatype"]]), binary_data=binary)
        found.append(made)
    return found


def test_the_client_finds_the_model_by_the_version_that_it_tells(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "tsa"
    (version,) = client.get_model_metadata("shop")["versions"]
    assert client.is_model_ready("shop")
    assert client.is_model_ready("shop", version)
    assert client.get_model_metadata("shop", version)["versions"] == [version]
    assert not client.is_model_ready("shop", "7")
    assert not client.is_model_ready("bank")


def test_the_client_gets_the_scorers_scores(client: Any, bundle: Path) -> None:
    (version,) = client.get_model_metadata("shop")["versions"]
    wanted = Scorer.load(bundle).score(ROWS)["raw_score"].to_list()
    outputs = [triton.InferRequestedOutput("raw_score", binary_data=False)]
    for more in ({}, {"model_version": version}, {"outputs": outputs}):
        answer = client.infer("shop", inputs(client, ROWS), **more)
        assert answer.as_numpy("raw_score").tolist() == pytest.approx(wanted, abs=1e-6)
    assert answer.get_response()["model_version"] == version


@pytest.mark.parametrize(("header", "text"), [({}, "id is required"), ({"x-deadline-ms": "no"}, "must be")])
def test_refusals_are_told_in_the_clients_words(client: Any, header: dict[str, str], text: str) -> None:
    other = utils.InferenceServerException
    bad = triton.InferInput("amount", [1], "FP64")
    bad.set_data_from_numpy(np.ones(1), binary_data=False)
    with pytest.raises(other) as told:
        client.infer("shop", [bad], headers=header)
    assert text in told.value.message()
    for model, version in (("bank", ""), ("shop", "7")):
        with pytest.raises(other, match=r"the (model|version of the model) is"):
            client.infer(model, inputs(client, ROWS), model_version=version)
    with pytest.raises(other, match="tensors must be given as JSON"):
        client.infer("shop", inputs(client, ROWS, binary=True))
    with pytest.raises(other, match="the body must be sent as it is"):
        client.infer("shop", inputs(client, ROWS), request_compression_algorithm="gzip")


def test_who_may_not_enter_is_told_so_as_well(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "score-token-0123456789")
    with server(bundle, token_env=("SHOP_TOKEN",), history=f"sqlite:///{bundle.parent}/other.db") as (_, port):
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        with pytest.raises(utils.InferenceServerException, match="bearer token"):
            client.get_model_metadata("shop")
        client.close()
