"""Bundles as models of MLflow: `mlflow models serve` and `load_model` answer as the endpoint does, without pickle."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.endpoint import CARRIED, SHOP, WIRE, endpoint, made_bundle, payment
from tsa.errors import DataError
from tsa.registry import Registry

pytest.importorskip("mlflow")
pd = pytest.importorskip("pandas")

ROWS = [{**CARRIED, "id": "a"}, {**CARRIED, "id": "b", "amount": "x"}, {**CARRIED, "id": "c"}]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes a database into the current folder if it is used without an address."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def address(mlflow_address: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A server with two registries, whose champions are a market with inline history and one with logs."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, market in {"carried": WIRE, "shop": SHOP}.items():
        registry = Registry.open(f"mlflow://{mlflow_address}/{name}")
        registry.promote(registry.publish(made_bundle(folder / name, market), by="ann").sha256, by="ann")
    return mlflow_address


@pytest.fixture
def tracked(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
    return address


@contextlib.contextmanager
def model_server(uri: str, tracking: str) -> Iterator[str]:
    """`mlflow models serve`, in a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", uri, *options]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking,
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            assert process.poll() is None
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without fields that are null, and without the request's id."""
    fields = {name: plain(value) if isinstance(value, dict) else value for name, value in answer.items()}
    return {name: value for name, value in fields.items() if value is not None and name != "request_id"}


@pytest.mark.skipif(not os.environ.get("TSA_LONG"), reason="takes half a minute")
def test_mlflow_serves_what_the_endpoint_answers(address: str, tmp_path: Path) -> None:
    with endpoint(made_bundle(tmp_path / "b", WIRE), history=None) as client:
        expected = client.post("/invocations", json=ROWS).json()["predictions"]
    with model_server("models:/carried@champion", f"http://{address}") as url:
        answer = httpx.post(f"{url}/invocations", json={"dataframe_records": ROWS}, timeout=60)
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert predictions[0]["raw_score"] == expected[0]["raw_score"]
    assert [*map(plain, predictions)] == [*map(plain, expected)]


def test_a_loaded_model_scores_tables(tracked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import pyfunc

    model = pyfunc.load_model("models:/carried@champion")
    table = pd.DataFrame(ROWS)
    scores = model.predict(table)
    assert list(scores["raw_score"].notna()) == [True, False, True]
    assert (scores["id"][0], scores["id"][2]) == ("a", "c")
    assert scores["problem"][1]["rule"] == "not_a_number"
    monkeypatch.setenv("TSA_MAX_LIST", "2")
    assert list(model.predict(table)["raw_score"]) == list(scores["raw_score"])
    assert len(model.predict(table.iloc[:0])) == 0
    monkeypatch.setenv("TSA_MAX_LIST", "200000")
    with pytest.raises(DataError, match="the payments cannot be scored: the body must have at most"):
        model.predict(pd.concat([table] * 30_000))


def test_payments_of_a_log_need_a_history(tracked: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mlflow import pyfunc

    table = pd.DataFrame([payment("a"), payment("b", amount=None)])
    refused = pyfunc.load_model("models:/shop@champion").predict(table)
    assert [problem["rule"] for problem in refused["problem"]] == ["no_history"] * 2
    monkeypatch.setenv("TSA_HISTORY", f"sqlite:///{tmp_path}/h.db")
    monkeypatch.setenv("TSA_NEW_STORE", "1")
    scored = pyfunc.load_model("models:/shop@champion").predict(table)
    assert scored["raw_score"].notna().all()


def test_a_model_has_no_pickle(address: str, tracked: str, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    folder = Path(download_artifacts("models:/carried@champion", dst_path=str(tmp_path)))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files >= {"MLmodel", "model.py", "artifacts/bundle.tar.gz", "requirements.txt"}
    assert not any(name.endswith((".pkl", ".pickle", ".joblib")) for name in files)
    flavor = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["model_code_path"].endswith("/model.py")
    assert "python_model" not in flavor
    assert "tsa-fraud[mlflow,serve]==" in (folder / "requirements.txt").read_text()
