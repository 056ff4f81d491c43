"""A SageMaker training job in a temporary folder: alone, and by the `train` of the real toolkit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors.torch import load_file

from support.easy_log import TINY, begin, ended, side_by_side
from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.integrations.sagemaker import training
from tsa.integrations.sagemaker.training import STOPPED, main
from tsa.integrations.sagemaker.training_settings import TrainingJob
from tsa.training.train_step import TrainStep

MARKET = """
name = "easy"
history = [{ name = "customer", key = "customer", length = 4 }]

[event]
id = "id"
time = "time"
time_unit = "s"
amount = "amount"

[label]
column = "fraud"
delay_days = 1
as_feature = true

[features]
categorical = ["category"]
numerical = [{ name = "amount", transform = "log1p" }]

[split]
train = ["2018-05-07", "2018-05-17"]
validation = ["2018-05-17", "2018-05-19"]
calibration = ["2018-05-19", "2018-05-20"]
test = ["2018-05-21", "2018-05-23"]
"""
SHORT = {
    **{"training.epochs": "2", "training.batch_size": "64", "training.genuine_per_fraud": "2"},
    **{f"model.{name}": str(value) for name, value in TINY.items()},
}
AS_THE_SDK_WRITES = {"market": '"easy.toml"', "sagemaker_region": '"eu-west-1"', "sagemaker_job_name": '"job-1"'}
FILES = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}


@dataclass(frozen=True)
class Folder:
    """What SageMaker mounts, filled for a job on the easy log."""

    base: Path

    def write(self, name: str, content: Any) -> None:
        (self.base / "input" / "config" / f"{name}.json").write_text(json.dumps(content))

    def asks(self, **hyperparameters: Any) -> None:
        self.write("hyperparameters", {**AS_THE_SDK_WRITES, **SHORT, **hyperparameters})

    @property
    def failure(self) -> str:
        """What SageMaker shows."""
        return (self.base / "output" / "failure").read_text()[:1024]

    @property
    def run(self) -> Path:
        return self.base / "checkpoints" / "run"


@pytest.fixture
def folder(easy_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """One host, the log nested in the channel `training`, the market file in the channel `market`."""
    made = Folder(tmp_path / "ml")
    for name in ("input/config", "input/data/training/2018/05", "input/data/market"):
        (made.base / name).mkdir(parents=True)
    shutil.copy(easy_log, made.base / "input" / "data" / "training" / "2018" / "05" / "part-0.parquet")
    (made.base / "input" / "data" / "market" / "easy.toml").write_text(MARKET)
    made.asks()
    made.write("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"})
    made.write("inputdataconfig", {"training": FILES, "market": FILES})
    for name in [name for name in os.environ if name.startswith(("SM_", "SAGEMAKER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(made.base))
    return made


def test_a_job(folder: Folder) -> None:
    """The bundle where models go, the report where output goes, nothing of what is large or goes elsewhere."""
    (folder.base / "output").mkdir()
    (folder.base / "output" / "failure").write_text("of the job before")
    assert main() == 0
    bundle = Bundle.open(folder.base / "model")
    assert len(bundle.training["epochs"]) == 2
    assert bundle.config.width == 8
    assert not (folder.base / "output" / "failure").exists()
    names = {path.name for path in (folder.base / "output" / "data").iterdir()}
    assert names >= {"report.html", "report.json", "run.json", "metrics.jsonl", "validation_scores.parquet"}
    assert not names & {"bundle", "checkpoints", "store"}


def test_sagemakers_variables(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels, model and output may stand elsewhere; a hyperparameter may switch the evaluation off."""
    data = shutil.move(folder.base / "input" / "data", tmp_path / "data")
    for name in ("training", "market"):
        monkeypatch.setenv(f"SM_CHANNEL_{name.upper()}", str(Path(data) / name))
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path / "output"))
    folder.asks(evaluate="false", **{"training.epochs": 1, "history.0.length": "3"})
    assert main() == 0
    assert Bundle.open(tmp_path / "model").market.history[0].length == 3
    assert (tmp_path / "output" / "run.json").is_file()
    assert not (tmp_path / "output" / "report.html").exists()
    assert not (folder.base / "model").exists()


def test_a_channel_that_is_a_store(folder: Folder, easy_store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the log nor the market file is needed; a test range that cannot be measured does not lose the training."""
    monkeypatch.setenv("SM_CHANNEL_STORE", str(easy_store.path))
    folder.write("inputdataconfig", {"store": FILES})
    folder.write("hyperparameters", {**SHORT, "evaluate": "no"})
    assert main() == 0
    assert Bundle.open(folder.base / "model").market.fingerprint == easy_store.market.fingerprint
    assert not (folder.base / "store").exists()


def test_it_goes_on_from_checkpoints(folder: Folder) -> None:
    """SIGTERM saves and is no failure; the next job, on a new machine with the checkpoints, ends with the same weights."""
    assert apart(main, folder) == 0
    whole = load_file(folder.base / "model" / "weights.safetensors")
    shutil.rmtree(folder.base / "model")
    shutil.rmtree(folder.run)
    assert apart(stopped_in_a_step, folder) == STOPPED == 143
    assert not (folder.base / "output" / "failure").exists()
    assert not (folder.base / "model").exists()
    assert list(folder.run.glob("checkpoints/last-*"))
    shutil.rmtree(folder.base / "store")
    assert apart(main, folder) == 0
    found = load_file(folder.base / "model" / "weights.safetensors")
    assert all(found[name].equal(value) for name, value in whole.items())


def apart(job: Callable[[], int], folder: Folder) -> Any:
    """The exit code of a job in a process of its own."""
    return ended(*begin(job, SAGEMAKER_BASE_DIR=folder.base)).value


def stopped_in_a_step() -> int:
    original, seen = TrainStep._gradients, 0

    def patched(self: TrainStep, *arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    TrainStep._gradients = patched  # type: ignore[method-assign]
    return main()


def test_checkpoints_of_another_job_are_refused(folder: Folder) -> None:
    assert apart(stopped_in_a_step, folder) == STOPPED
    folder.asks(**{"training.learning_rate": "0.5"})
    assert main() == 1
    assert "is of another run (checkpoint, then this run):\n  training.learning_rate: 0.0015, 0.5" in folder.failure


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hyperparameters": {"market": "eu.toml"}}, "market must name a file in a channel (training, market) (got 'eu.toml'"),
        ({"hyperparameters": {"market": "easy.toml", "training.epochs": "x"}}, "ConfigError: training.epochs: "),
        ({"hyperparameters": {"market": "easy.toml", "training.epoch": "3"}}, "did you mean `epochs`"),
        ({"hyperparameters": {"market": "easy.toml", "processes_per_host": "0"}}, "at least 1 (got '0'"),
        ({"hyperparameters": ["market"]}, "hyperparameters.json must hold a JSON object (got ['market'])"),
        ({"inputdataconfig": {"market": FILES}}, "one named training with logs (got market"),
        ({"inputdataconfig": {"training": FILES, "test": {"TrainingInputMode": "Pipe"}}}, "test, mode Pipe"),
        (
            {
                "resourceconfig": {"current_host": "b", "hosts": ["b", "a"]},
                "inputdataconfig": {"training": {**FILES, "S3DistributionType": "ShardedByS3Key"}},
            },
            "channel training must be FullyReplicated with several hosts (got ShardedByS3Key",
        ),
    ],
)  # fmt: skip
def test_bad_jobs_say_why(folder: Folder, changes: dict[str, Any], text: str) -> None:
    """In the file that SageMaker reads, the message first, without a traceback."""
    for name, content in changes.items():
        folder.write(name, content)
    assert main() == 1
    assert text in folder.failure
    assert "Traceback" not in folder.failure
    assert not (folder.base / "model").exists()


def test_configuration_that_is_no_json(folder: Folder) -> None:
    (folder.base / "input" / "config" / "resourceconfig.json").write_text("{")
    with pytest.raises(ConfigError, match=r"resourceconfig\.json cannot be read as JSON: "):
        TrainingJob.read(folder.base)


def test_what_is_not_there_has_defaults(tmp_path: Path) -> None:
    job = TrainingJob.read(tmp_path)
    assert (job.host, job.hosts, job.channels, job.hyperparameters) == ("localhost", ("localhost",), {}, {})
    assert job.processes >= 1


def test_a_bug_is_told_message_first(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """SageMaker shows 1,024 characters: however long the traceback, they say what happened."""
    monkeypatch.setattr(training, "_prepare", lambda *_: (_ for _ in ()).throw(ZeroDivisionError("ä" * 500)))
    assert main() == 1
    assert folder.failure.startswith(f"ZeroDivisionError: {'ä' * 500}\n\nTraceback")
    assert len((folder.base / "output" / "failure").read_text()) > 1024


def test_two_hosts(folder: Folder, tmp_path: Path) -> None:
    """Each prepares its own store, from the same log; the first one publishes."""
    second = Folder(Path(shutil.copytree(folder.base, tmp_path / "second")))
    hosts = ["127.0.0.1", "127.0.0.2"]
    ends = []
    port = free_port()
    for host, own in zip(hosts, (folder, second), strict=True):
        own.write("resourceconfig", {"current_host": host, "hosts": hosts[::-1], "network_interface_name": "lo"})
        ends.append(begin(main, SAGEMAKER_BASE_DIR=own.base, MASTER_PORT=port))
    assert [ended(*one).value for one in ends] == [0, 0]
    assert Bundle.open(folder.base / "model").training["epochs"]
    assert json.loads((folder.run / "run.json").read_text())["environment"]["processes"] == 2
    assert not (second.base / "model").exists()
    assert not (second.run / "checkpoints").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_on_a_host(folder: Folder) -> None:
    """SIGTERM to the job reaches them."""
    folder.asks(**{"processes_per_host": "2", "training.epochs": "300", "training.early_stopping": "false"})
    assert interrupted([sys.executable, "-m", "tsa.integrations.sagemaker.training"], folder) == STOPPED
    assert not (folder.base / "output" / "failure").exists()


def test_what_one_of_two_processes_fails_with(folder: Folder) -> None:
    """Both end, and the file says what it was and not that another failed."""
    folder.asks(**{"training.batch_size": "1"})
    ends = side_by_side(2, job_in, str(folder.base))
    assert [end.value for end in ends] == [1, 1]
    assert "TrainingError: each process must get a payment of each part of a batch" in folder.failure
    assert "Traceback" not in folder.failure


def job_in(base: str) -> int:
    os.environ["SAGEMAKER_BASE_DIR"] = base
    return main()


TOOLKIT = [str(Path(sys.executable).with_name("train"))]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port()), **more}


def interrupted(command: list[str], folder: Folder, **more: str) -> int:
    """Start it, and send SIGTERM when it has written a checkpoint; its exit code."""
    process = subprocess.Popen(
        command, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not list(folder.run.glob("checkpoints/last-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    assert "stopped by a signal: a checkpoint was saved" in said
    return process.returncode


@pytest.mark.skipif(not Path(TOOLKIT[0]).exists(), reason="the SageMaker training toolkit is not installed")
def test_by_the_toolkit(folder: Folder) -> None:
    """Interrupted, and gone on with to the same weights."""
    sets = {"training.epochs": "8", "training.early_stopping": "false"}
    folder.asks(**sets)
    module = {"SAGEMAKER_TRAINING_MODULE": "tsa.integrations.sagemaker.training:start"}
    assert interrupted(TOOLKIT, folder, **module) == 143
    assert not (folder.base / "output" / "failure").exists()
    done = subprocess.run(TOOLKIT, env=environment(**module), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Reporting training SUCCESS" in done.stdout + done.stderr
    assert "resuming from" in done.stdout + done.stderr
    assert (folder.base / "output" / "success").is_file()
    found = load_file(folder.base / "model" / "weights.safetensors")
    for name in ("checkpoints", "model", "output"):
        shutil.rmtree(folder.base / name)
    assert apart(main, folder) == 0
    whole = load_file(folder.base / "model" / "weights.safetensors")
    assert all(found[name].equal(value) for name, value in whole.items())


@pytest.mark.skipif(not Path(TOOLKIT[0]).exists(), reason="the SageMaker training toolkit is not installed")
def test_a_failure_by_the_toolkit(folder: Folder) -> None:
    """Our words stand in the failure file, not the toolkit's."""
    log = next((folder.base / "input" / "data" / "training").rglob("*.parquet"))
    pl.read_parquet(log).with_columns(fraud=0).write_parquet(log)
    module = {"SAGEMAKER_TRAINING_MODULE": "tsa.integrations.sagemaker.training:start"}
    done = subprocess.run(TOOLKIT, env=environment(**module), capture_output=True, text=True)
    assert done.returncode == 1
    assert folder.failure.startswith("TrainingError: the training range must hold both outcomes (got frauds=0")
