"""SageMaker's model server itself, where it and Java are there (pip install multi-model-server): a packed model answers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import httpx
import pytest

from support.endpoint import CARRIED, WIRE, made_bundle
from tsa.bundle.bundle import Bundle
from tsa.inference.scorer import Scorer
from tsa.integrations.sagemaker.packing import pack_for_sagemaker
from tsa.legacy.response import legacy_response

pytest.importorskip("sagemaker_inference")
MMS = importlib.util.find_spec("mms")
pytestmark = pytest.mark.skipif(MMS is None or shutil.which("java") is None, reason="no multi-model-server, or no Java")

CONFIG = """
decode_input_request=false
default_service_handler=sagemaker_inference.default_handler_service
default_workers_per_model=1
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{port}
"""


def test_a_packed_model_answers_behind_the_model_server(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle", WIRE, imported=True)
    pack_for_sagemaker(bundle, tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "model")  # an archive of our own; `filter` needs 3.11.4
    port = free_port()
    (tmp_path / "config.properties").write_text(CONFIG.format(port=port))
    assert MMS is not None
    assert MMS.origin is not None
    home = Path(MMS.origin).parents[1]
    command = ["java", f"-Djava.io.tmpdir={tmp_path}", f"-Dmodel_server_home={home}", "-Xmx256m"]
    command += ["-cp", f"{home}/mms/frontend/*", "com.amazonaws.ml.mms.ModelServer", "--model-store", "/"]
    command += ["--mms-config-file", "config.properties", "--models", f"model={tmp_path / 'model'}"]
    path = [str(tmp_path / "model" / "code"), str(home), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(part for part in path if part),
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        answer = ask(f"http://127.0.0.1:{port}/invocations", process, tmp_path / "log")
        calibration = Bundle.open(bundle).calibration
        assert calibration is not None
        raw = Scorer.load(bundle).score([CARRIED])["raw_score"].to_numpy()
        assert answer.json() == legacy_response(raw, calibration)
        headers = {"content-type": "application/json"}
        refused = httpx.post(f"http://127.0.0.1:{port}/invocations", content=b"{", headers=headers, timeout=30)
        assert (refused.status_code, refused.json()["rule"]) == (400, "not_json")
        assert refused.headers["content-type"] == "application/problem+json"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its workers too, which outlive it
        process.wait(30)


def free_port() -> int:
    """Below those that the system gives away: the model server takes none of these."""
    for port in range(20_000 + os.getpid() % 5_000, 30_000):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def ask(url: str, process: subprocess.Popen[bytes], log: Path) -> httpx.Response:
    """The first answer that is one: workers need a while to open the model."""
    end = time.monotonic() + 90
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(url, json=CARRIED, timeout=60)
            if answer.is_success:
                return answer
        time.sleep(0.3)
