"""A SageMaker training job: `python -m tsa.integrations.sagemaker.training`, or `start` as the toolkit's SAGEMAKER_TRAINING_MODULE.

    /opt/ml/input/config/hyperparameters.json   settings: market, preset, training.KEY, model.KEY, keys of the market
    /opt/ml/input/config/inputdataconfig.json   the channels; each is a folder, SM_CHANNEL_NAME or input/data/NAME
    /opt/ml/input/config/resourceconfig.json    the hosts of the job, and which of them this is
    /opt/ml/checkpoints/run                     the run folder; training continues from its checkpoints, if any
    /opt/ml/model, or SM_MODEL_DIR              gets the bundle
    /opt/ml/output/data, or SM_OUTPUT_DATA_DIR  gets the report, the metrics and the logs
    /opt/ml/output/failure                      why the job failed; SageMaker shows the first 1,024 characters

SAGEMAKER_BASE_DIR, if set, is used instead of /opt/ml. Exit codes: 0; 1 for a failure; 143 when stopped by SIGTERM with a
checkpoint saved.
"""

from __future__ import annotations

from tsa.signals import end_on_signals

if __name__ == "__main__":  # before seconds of imports, as in `serving`; the training itself saves a checkpoint first
    end_on_signals(names=("SIGTERM",), at_once=True)

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch

from tsa.config.overrides import Overrides
from tsa.data.store.manifest import MANIFEST
from tsa.data.store.store import EventStore, prepare
from tsa.errors import ConfigError, TrainingStopped, TSAError
from tsa.evaluation.evaluate import evaluate
from tsa.files.platform_files import MARKERS
from tsa.files.writing import read_json, write_text
from tsa.training.config import TrainingConfig
from tsa.training.distributed import distributed_context
from tsa.training.train_model import train

logger = logging.getLogger("tsa.integrations.sagemaker.training")

STOPPED = 128 + signal.SIGTERM
OWN = ("market", "preset", "evaluate", "processes_per_host")
"""Hyperparameters that this module reads; all others except SageMaker's are settings."""
SAGEMAKERS = ("sagemaker_", "_tuning_objective_metric")
"""Prefixes of SageMaker's hyperparameters."""
CHANNEL = "SM_CHANNEL_"
PORT = "29500"
SAVING_SECONDS = 110
"""SageMaker kills the job 120 seconds after SIGTERM."""
NOT_OUTPUT = ("bundle", "checkpoints", "store", ".*")
"""Parts of the run folder that are not copied to the output: copied elsewhere, or large and useless after the job."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """The configuration of a training job: hyperparameters, channels, hosts and folders."""

    base: Path
    hyperparameters: Mapping[str, str]
    channels: Mapping[str, Path]
    host: str
    hosts: tuple[str, ...]
    network_interface: str | None
    model: Path
    output: Path

    @classmethod
    def read(cls, base: Path) -> Self:
        """Read the job's configuration. Raises ConfigError if it is invalid."""
        resources = _read(base, "resourceconfig")
        hosts = tuple(sorted(resources.get("hosts", ["localhost"])))
        return cls(
            base=base,
            hyperparameters={name: _text(value) for name, value in _read(base, "hyperparameters").items()},
            channels=_channels(base, several_hosts=len(hosts) > 1),
            host=resources.get("current_host", hosts[0]),
            hosts=hosts,
            network_interface=resources.get("network_interface_name"),
            model=Path(os.environ.get("SM_MODEL_DIR", base / "model")),
            output=Path(os.environ.get("SM_OUTPUT_DATA_DIR", base / "output" / "data")),
        )

    def own(self, name: str, default: str) -> str:
        """A hyperparameter of OWN. The SDK writes texts as JSON, with quotes; the console does not."""
        given = self.hyperparameters.get(name, default)
        return str(json.loads(given)) if given.startswith('"') else given

    @property
    def store(self) -> Path | None:
        """The channel that contains a store, if any."""
        return next((path for path in self.channels.values() if (path / MANIFEST).is_file()), None)

    @property
    def settings(self) -> Overrides:
        """The settings, with the market unless there is a store, which contains one."""
        texts = [
            f"{name}={value}"
            for name, value in self.hyperparameters.items()
            if name not in OWN and not name.startswith(SAGEMAKERS)
        ]
        return Overrides.read(texts, None if self.store else self._market())

    def _market(self) -> Path:
        """The market file: a path, or a file name in one of the channels. Raises ConfigError if there is none."""
        name = self.own("market", "market.toml")
        for folder in (Path(), *self.channels.values()):
            if (folder / name).is_file():
                return folder / name
        raise ConfigError(f"market must name a file in a channel ({', '.join(self.channels)}) (got {name!r})")

    def logs(self) -> Path:
        """The channel with the payment logs. Raises ConfigError if there is none."""
        for name in ("training", "train"):
            if name in self.channels:
                return self.channels[name]
        names = ", ".join(self.channels) or "none"
        raise ConfigError(f"a job needs a channel with a store, or one named training with logs (got {names})")

    @property
    def processes(self) -> int:
        """Processes on each host; default: one per GPU, at least one."""
        given = self.own("processes_per_host", "")
        if not given:
            return max(1, torch.cuda.device_count())
        if not given.isdecimal() or int(given) < 1:
            raise ConfigError(f"processes_per_host must be a whole number of at least 1 (got {given!r})")
        return int(given)


def main() -> int:
    """Run the job. Returns the exit code; an error is written to output/failure."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    failure = base / "output" / "failure"
    try:
        job = TrainingJob.read(base)
        if "RANK" in os.environ:  # one of several that were started
            run(job)
        else:
            failure.unlink(missing_ok=True)
            return _start_all(job, failure)
    except TrainingStopped as stopped:
        logger.warning("%s", stopped)
        return STOPPED
    except Exception as error:
        logger.exception("failed")
        _write_failure(failure, error)
        return 1
    return 0


def start() -> None:
    """`main` for the toolkit, which calls it in its process. Exits here at a failure, because the toolkit changes codes."""
    if code := main():
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)


def run(job: TrainingJob) -> None:
    """Prepare the store, train, and copy the results to SageMaker's folders. Raises TrainingStopped at SIGTERM."""
    settings = job.settings
    training = TrainingConfig.make(settings.training)
    out = job.base / "checkpoints" / "run"
    with distributed_context(training.device) as processes:
        first_here = os.environ.get("LOCAL_RANK", "0") == "0"
        processes.run_then_barrier("store", partial(_prepare, job, settings) if first_here else None)
        store = EventStore.open(job.store or job.base / "store")
        preset = job.own("preset", "default")
        train(store, out, preset=preset, model=settings.model, training=training, resume=True)
    if processes.is_main:
        _publish(job, out)


def _prepare(job: TrainingJob, settings: Overrides) -> None:
    """Write the store of the logs, the same on each host. Does nothing if a channel contains a store."""
    if job.store is None:
        assert settings.market is not None
        prepare(settings.market, job.logs(), job.base / "store")


def _publish(job: TrainingJob, out: Path) -> None:
    """Copy the bundle to the model folder, and the other results to the output folder."""
    # SageMaker writes marker files next to the files under checkpoints at the same time
    ignored = shutil.ignore_patterns(*MARKERS)
    shutil.copytree(out / "bundle", job.model, ignore=ignored, dirs_exist_ok=True)
    if job.own("evaluate", "true").lower() == "true":
        try:
            evaluate(out)
            shutil.copytree(out / "bundle", job.model, ignore=ignored, dirs_exist_ok=True)  # with its metrics now
        except TSAError as error:  # for example, a test range without frauds: no reason to lose the training
            logger.warning("the run cannot be evaluated: %s: %s", type(error).__name__, error)
    shutil.copytree(out, job.output, ignore=shutil.ignore_patterns(*NOT_OUTPUT, *MARKERS), dirs_exist_ok=True)


def _start_all(job: TrainingJob, failure: Path) -> int:
    """Run as this host's only process, or start several and wait for them."""
    if len(job.hosts) > 1 and job.network_interface:
        for library in ("NCCL", "GLOO"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", job.network_interface)
    if job.processes > 1:
        return _start_several(job, failure)
    if len(job.hosts) > 1:
        os.environ.setdefault("MASTER_PORT", PORT)
        os.environ |= {"MASTER_ADDR": job.hosts[0], "WORLD_SIZE": str(len(job.hosts))}
        os.environ |= {"RANK": str(job.hosts.index(job.host)), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    run(job)
    return 0


def _start_several(job: TrainingJob, failure: Path) -> int:
    """Start this host's processes with torchrun and forward SIGTERM to them. Returns the exit code."""
    options = {
        "nnodes": len(job.hosts),
        "node-rank": job.hosts.index(job.host),
        "nproc-per-node": job.processes,
        "master-addr": job.hosts[0] if len(job.hosts) > 1 else "127.0.0.1",
        "master-port": os.environ.get("MASTER_PORT", PORT),
        **_patience(),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    stopped = False
    with subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *words, "-m", __spec__.name]) as processes:

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal stopped
            stopped = True
            processes.send_signal(number)

        before = signal.signal(signal.SIGTERM, stop)
        code = processes.wait()
        signal.signal(signal.SIGTERM, before)
    if code and stopped and not failure.exists():
        return STOPPED
    if code and not failure.exists():
        write_text(
            failure, f"the processes of the job ended with exit code {code} without an error message: see the log\n"
        )
    return 1 if code else 0


def _patience() -> dict[str, int]:
    """Option for how long torchrun waits for processes that save, if it has one; its default is 30 seconds."""
    from torch.distributed.run import get_args_parser

    return {"shutdown-timeout": SAVING_SECONDS} if "--shutdown-timeout" in get_args_parser().format_help() else {}


def _write_failure(failure: Path, error: Exception) -> None:
    """Write why the job failed: the message and, for a bug, the traceback. Only the first process to fail writes."""
    if failure.exists():
        return
    text = f"{type(error).__name__}: {error}\n"
    if not isinstance(error, TSAError):
        text += "\n" + "".join(traceback.format_exception(error))
    write_text(failure, text)


def _read(base: Path, name: str) -> dict[str, Any]:
    """Read a file of input/config; an empty dict if there is none."""
    path = base / "input" / "config" / f"{name}.json"
    return read_json(path, ConfigError) if path.exists() else {}


def _text(value: Any) -> str:
    """A hyperparameter as text; in SageMaker's local mode it may be a parsed value."""
    return value if isinstance(value, str) else json.dumps(value)


def _channels(base: Path, *, several_hosts: bool) -> dict[str, Path]:
    """The folder of each channel, from the configuration file or the environment.

    Raises:
        ConfigError: a channel does not exist, or is not the same on all hosts.
    """
    configs: dict[str, Any] = _read(base, "inputdataconfig")
    known = {name.upper() for name in configs}
    alone = [name.removeprefix(CHANNEL) for name in sorted(os.environ) if name.startswith(CHANNEL)]
    configs |= {name.lower(): {} for name in alone if name not in known}
    folders = {}
    for name, config in configs.items():
        path = Path(os.environ.get(f"{CHANNEL}{name.upper()}", base / "input" / "data" / name))
        if not path.is_dir():
            mode = config.get("TrainingInputMode")
            raise ConfigError(f"channel {name} must be a folder (mode File or FastFile) (got {path}, mode {mode})")
        if several_hosts and config.get("S3DistributionType") == "ShardedByS3Key":
            raise ConfigError(f"channel {name} must be FullyReplicated with several hosts (got ShardedByS3Key)")
        folders[name] = path
    return folders


if __name__ == "__main__":
    end_on_signals(names=("SIGTERM",))
    sys.exit(main())
