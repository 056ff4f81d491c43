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

import logging
import os
import shutil
import signal
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path
from types import FrameType

from tsa.config.overrides import Overrides
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import TrainingStopped, TSAError
from tsa.evaluation.evaluate import evaluate
from tsa.files.platform_files import MARKERS
from tsa.files.writing import write_text
from tsa.integrations.sagemaker.training_settings import TrainingJob
from tsa.training.config import TrainingConfig
from tsa.training.distributed import distributed_context
from tsa.training.train_model import train

logger = logging.getLogger("tsa.integrations.sagemaker.training")

STOPPED = 128 + signal.SIGTERM
PORT = "29500"
SAVING_SECONDS = 110
"""SageMaker kills the job 120 seconds after SIGTERM."""
NOT_OUTPUT = ("bundle", "checkpoints", "store", ".*")
"""Parts of the run folder that are not copied to the output: copied elsewhere, or large and useless after the job."""


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


if __name__ == "__main__":
    end_on_signals(names=("SIGTERM",))
    sys.exit(main())
