"""SageMaker's own inference toolkit on a packed model, and the server that the container's word `serve` starts."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from packaging.requirements import Requirement

from support.endpoint import CARRIED, WIRE, made_bundle, payment
from tsa.bundle.bundle import Bundle
from tsa.errors import ConfigError
from tsa.inference.scorer import Scorer
from tsa.integrations.sagemaker.packing import INFERENCE
from tsa.integrations.sagemaker.serving import input_fn, main, model_fn, output_fn, predict_fn
from tsa.legacy.response import legacy_response
from tsa.serving.problems import ProblemError

sagemaker_inference = pytest.importorskip("sagemaker_inference")

ROWS = [payment("a"), payment("b", at="2025-04-20T13:00:00Z", amount=900)]
Ask = Callable[..., tuple[int, str, bytes]]


class Context:
    """The model server's context, as much of it as the toolkit and we use: a request's headers, what is answered."""

    def __init__(self, model: Path) -> None:
        self.system_properties = {"model_dir": str(model)}
        self.headers: dict[str, str] = {}
        self.status, self.content_type = 200, ""

    @property
    def request_processor(self) -> list[Context]:
        return [self]

    def get_request_properties(self) -> dict[str, str]:
        return self.headers

    def set_response_content_type(self, number: int, content_type: str) -> None:
        self.content_type = content_type

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.status = code


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("sagemaker") / "bundle")


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Ask]:
    """The real handler of the toolkit on a model folder: `ask(body, content type, accept)` -> status, type, answer."""
    from sagemaker_inference.default_handler_service import DefaultHandlerService

    def start(model: Path) -> Ask:
        monkeypatch.syspath_prepend(str(model / "code"))  # as the model server's PYTHONPATH does
        monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        sys.modules.pop("inference", None)
        service, context = DefaultHandlerService(), Context(model)
        service.initialize(context)

        def ask(body: bytes, kind: str = "application/json", accept: str = "") -> tuple[int, str, bytes]:
            context.headers, context.status = {"Content-Type": kind, "Accept": accept}, 200
            (answer,) = service.handle([{"body": body}], context)
            return context.status, context.content_type, answer

        return ask

    return start


def packed(tsa: Any, bundle: Path, folder: Path) -> Path:
    """The bundle packed by the command, and unpacked as SageMaker does it."""
    outcome = tsa("bundle", "pack", bundle, "--sagemaker", "--out", folder / "model.tar.gz")
    assert outcome.code == 0, outcome.err
    with tarfile.open(folder / "model.tar.gz") as archive:
        archive.extractall(folder / "model")  # an archive of our own; `filter` needs 3.11.4
    return folder / "model"


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    pl.DataFrame(rows).write_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


def test_a_wheel_goes_along_where_no_index_has_the_package(tsa: Any, bundle: Path, tmp_path: Path) -> None:
    """What pip then installs is that wheel: no index is asked for this package."""
    wheel = tmp_path / f"tsa_fraud-{version('tsa-fraud')}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tsa/__init__.py", "")
    done = tsa("bundle", "pack", bundle, "--sagemaker", "--wheel", wheel, "--out", tmp_path / "model.tar.gz")
    assert done.code == 0, done.err
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "model")  # an archive of our own; `filter` needs 3.11.4
    model = tmp_path / "model"
    requirement = Requirement((model / "code" / "requirements.txt").read_text().strip())
    assert (requirement.name, requirement.extras) == ("tsa-fraud", {"onnx", "redis"})
    assert requirement.url == f"file:///opt/ml/model/code/{wheel.name}"
    assert (model / "code" / wheel.name).read_bytes() == wheel.read_bytes()
    other = tmp_path / "other-1.0-py3-none-any.whl"
    other.write_bytes(wheel.read_bytes())
    for words, text in (
        (("--sagemaker", "--wheel", other), "wheel must be tsa_fraud-"),
        (("--wheel", wheel), "--wheel needs --sagemaker"),
    ):
        refused = tsa("bundle", "pack", bundle, *words, "--out", tmp_path / "other.tar.gz")
        assert refused.code == 2
        assert text in refused.err


def test_pack_makes_a_model_with_code_and_requirements(tsa: Any, bundle: Path, tmp_path: Path) -> None:
    model = packed(tsa, bundle, tmp_path)
    assert {path.name for path in model.iterdir()} == {"bundle.tar.gz", "code"}, (
        "no manifest.json: the model server's own"
    )
    assert Bundle.open(model / "bundle.tar.gz").sha256 == Bundle.open(bundle).sha256
    assert (model / "code" / "requirements.txt").read_text().startswith("tsa-fraud[onnx,redis]==")
    first = (tmp_path / "model.tar.gz").read_bytes()
    assert tsa("bundle", "pack", bundle, "--sagemaker", "--out", tmp_path / "model.tar.gz").code == 0
    assert (tmp_path / "model.tar.gz").read_bytes() == first


def test_pack_refuses_what_is_no_model(tsa: Any, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.tar.gz").write_text("mine")
    for out, text in (("notes.tar.gz", "it is something else"), ("folder", "out must end in .tar.gz")):
        outcome = tsa("bundle", "pack", bundle, "--sagemaker", "--out", tmp_path / out)
        assert outcome.code == 2
        assert text in outcome.err.replace("\n", " ")
    assert (tmp_path / "notes.tar.gz").read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", json.dumps(ROWS).encode()),
        ("application/json", json.dumps({"instances": ROWS}).encode()),
        ("application/jsonlines", b"\n".join(json.dumps(row).encode() for row in ROWS)),
        ("text/csv", pl.DataFrame(ROWS).write_csv().encode()),
        ("application/x-parquet", parquet_of(ROWS)),
    ],
)
def test_the_toolkit_gets_the_scores_of_the_scorer_in_every_format(
    tsa: Any, toolkit: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, body: bytes
) -> None:
    monkeypatch.setenv("TSA_HISTORY", f"sqlite:///{tmp_path}/h.db")
    monkeypatch.setenv("TSA_NEW_STORE", "1")
    ask = toolkit(packed(tsa, bundle, tmp_path))
    status, content_type, answer = ask(body, kind)
    assert (status, content_type) == (200, "application/json")
    found = json.loads(answer)["predictions"]
    assert [one["id"] for one in found] == ["a", "b"]
    offline = Scorer.load(bundle).score(ROWS)["raw_score"].to_list()
    assert [one["raw_score"] for one in found] == pytest.approx(offline, abs=1e-6)
    again = json.loads(ask(body, kind)[2])["predictions"]
    assert [one["replayed"] for one in again] == [True, True]
    assert [one["raw_score"] for one in again] == [one["raw_score"] for one in found]
    _, content_type, table = ask(body, kind, "text/csv")
    assert content_type.startswith("text/csv")
    assert [line["id"] for line in csv.DictReader(io.StringIO(table.decode()))] == ["a", "b"]


def test_an_imported_model_answers_word_for_word_as_the_original(tsa: Any, toolkit: Any, tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle", WIRE, imported=True)
    raw = Scorer.load(bundle).score([CARRIED])["raw_score"].to_numpy()
    calibration = Bundle.open(bundle).calibration
    assert calibration is not None
    ask = toolkit(packed(tsa, bundle, tmp_path))
    for body in (CARRIED, [CARRIED]):
        status, _, answer = ask(json.dumps(body).encode())
        assert (status, json.loads(answer)) == (200, legacy_response(raw, calibration))
    (said,) = json.loads(answer)["predictions"]
    assert list(said) == ["score-percentile", "legacy-score", "ProbabilityScore"]
    assert "e" not in said["legacy-score"]


@pytest.mark.parametrize(
    ("body", "kind", "accept", "status", "rule"),
    [
        (b"{", "application/json", "", 400, "not_json"),
        (b"x", "image/png", "", 415, "content_type"),
        (json.dumps(payment("a")).encode(), "application/json", "image/png", 406, "accept"),
        (json.dumps(payment("a", amount="x")).encode(), "application/json", "", 422, "not_a_number"),
        (b"[]", "application/json", "", 422, "empty"),
        (b"PAR1", "application/x-parquet", "", 400, "not_parquet"),
        (b" " * (2**20 + 1), "application/json", "", 413, "too_large"),
    ],
)
def test_a_refusal_is_a_problem_with_its_status_and_no_traceback(
    toolkit: Any,
    tsa: Any,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
    kind: str,
    accept: str,
    status: int,
    rule: str,
) -> None:
    monkeypatch.setenv("TSA_HISTORY", f"sqlite:///{tmp_path}/h.db")
    monkeypatch.setenv("TSA_NEW_STORE", "1")
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "1")
    found, content_type, answer = toolkit(packed(tsa, bundle, tmp_path))(body, kind, accept)
    assert (found, content_type, json.loads(answer)["rule"]) == (status, "application/problem+json", rule)
    assert b"Traceback" not in answer


def test_without_a_store_payments_bring_their_histories_along(
    toolkit: Any, tsa: Any, bundle: Path, tmp_path: Path
) -> None:
    ask = toolkit(packed(tsa, bundle, tmp_path))
    status, _, answer = ask(json.dumps(payment("a")).encode())
    assert (status, json.loads(answer)["rule"]) == (422, "no_history")
    told = {"payment": payment("a"), "histories": {"customer": [payment("z", at="2025-04-19T12:00:00Z")]}}
    status, _, answer = ask(json.dumps([told, payment("b")]).encode())
    one, other = json.loads(answer)["predictions"]
    assert (status, one["id"], other["problem"]["rule"]) == (200, "a", "no_history")
    alone = {"payment": payment("a"), "histories": {}}
    assert json.loads(ask(json.dumps([alone]).encode())[2])["predictions"][0]["raw_score"] != one["raw_score"]


def scored(model: Path) -> bytes:
    body = json.dumps({"payment": payment("a"), "histories": {}})
    return output_fn(predict_fn(input_fn(body, "application/json"), model_fn(str(model))), "application/json")[0]


def test_a_bundle_with_code_put_beside_its_files_is_found(bundle: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in bundle.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    plain = scored(model)
    (model / "code").mkdir()
    (model / INFERENCE).write_text("")
    assert scored(model) == plain
    (model / "other.txt").write_text("")
    with pytest.raises(Exception, match=r"other\.txt does not belong to the bundle"):
        model_fn(str(model))


def test_without_a_context_a_refusal_is_raised(bundle: Path) -> None:
    model = model_fn(str(bundle))
    with pytest.raises(ProblemError, match="not_json"):
        output_fn(predict_fn(input_fn(b"{", "application/json"), model), "application/json")


def test_settings_that_are_no_numbers_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_MODEL_SERVER_WORKERS", "many")
    with pytest.raises(ConfigError, match=r"workers: must be .*'many', from SAGEMAKER_MODEL_SERVER_WORKERS\)"):
        model_fn(str(bundle))


def test_the_word_serve_starts_a_server_on_the_port_that_sagemaker_says(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "ml" / "model", WIRE, imported=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(bundle.parent), "SAGEMAKER_BIND_TO_PORT": str(port)}
    command = [sys.executable, "-m", "tsa.integrations.sagemaker.serving"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
            while True:
                assert process.poll() is None
                assert time.monotonic() < end
                try:
                    assert httpx.get(f"{url}/ping").status_code == 200
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            (said,) = httpx.post(f"{url}/invocations", json=CARRIED, timeout=30).json()["predictions"]
            assert list(said) == ["score-percentile", "legacy-score", "ProbabilityScore"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_word_serve_says_in_one_line_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(logging.getLogger("tsa"), "propagate", True)
    monkeypatch.setattr("tsa.serving.worker.log_to_terminal", lambda: None)
    assert main() == 2
    assert "is not a bundle" in caplog.records[-1].getMessage()
