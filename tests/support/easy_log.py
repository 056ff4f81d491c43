"""A small market whose fraud is easy to see, a network that is trained on it in a second, and processes to train it in."""

from __future__ import annotations

import faulthandler
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.distributed import TCPStore

from tsa.cli import main
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.training import TrainingConfig
from tsa.training.data.sampler import EpochSample, Sampler

TINY = {"width": 8, "n_heads": 2, "feedforward_width": 16, "classifier_width": 16, "n_tree_ensemble": 1}
FAST = {"epochs": 3, "batch_size": 64, "learning_rate": 0.02}
MARKET: dict[str, Any] = {
    "name": "easy",
    "event": {"id": "id", "time": "time", "time_unit": "s", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 1, "as_feature": True},
    "history": [{"name": "customer", "key": "customer", "length": 4}],
    "features": {"categorical": ["category"], "numerical": [{"name": "amount", "transform": "log1p"}]},
    "split": {
        "train": ["2018-05-07", "2018-05-17"],
        "validation": ["2018-05-17", "2018-05-19"],
        "calibration": ["2018-05-19", "2018-05-20"],
        "test": ["2018-05-21", "2018-05-23"],
    },
}


def stored(log: pl.DataFrame, folder: Path) -> EventStore:
    log.write_parquet(folder / "log.parquet")
    return prepare(Market.from_dict(MARKET), [str(folder / "log.parquet")], folder / "store")


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig.make({**FAST, **changes})


@dataclass(frozen=True)
class Ended:
    """How a process ended: what its function returned, or the kind and text of its error; -9 where it was killed."""

    code: int
    value: Any = None
    error: str | None = None


START = multiprocessing.get_context("forkserver")
# imported once, in the server that all test processes are forked from
START.set_forkserver_preload(["tsa.training.train_model", "torch._dynamo", "matplotlib.figure", "support.easy_log"])


def begin(function: Callable[..., Any], *arguments: Any, **environment: object) -> tuple[BaseProcess, Connection]:
    """A process of its own that calls `function`. Its connection says True when it begins, and in the end (value, error)."""
    here, there = START.Pipe()
    process = START.Process(target=_run, args=(there, function, arguments, environment))
    process.start()
    there.close()
    assert here.recv() is True
    return process, here


def ended(process: BaseProcess, connection: Connection, timeout: float = 120.0) -> Ended:
    """Wait for it. A process that hangs fails the test, and its stacks go to standard error."""
    value, error = None, None
    try:
        if connection.poll(timeout):
            value, error = connection.recv()
    except (EOFError, ConnectionResetError):
        pass
    process.join(timeout)
    if process.exitcode is None:
        os.kill(process.pid or 0, signal.SIGUSR1)
        process.join(2.0)
        process.kill()
        raise AssertionError(f"the process hangs; it had said {value}, {error}")
    return Ended(process.exitcode, value, error)


def alone(function: Callable[..., Any], *arguments: Any) -> Ended:
    """Call `function` in a process of its own."""
    return ended(*begin(function, *arguments))


def side_by_side(count: int, function: Callable[..., Any], *arguments: Any) -> list[Ended]:
    """Call `function` in so many processes, started as torchrun starts them: it holds the store of texts itself."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    started = [begin(function, *arguments, RANK=rank, LOCAL_RANK=rank, **shared) for rank in range(count)]
    return [ended(*one) for one in started]


def run_command(words: list[str]) -> tuple[int, str, str]:
    """Run a command in this process; its exit code and what it wrote."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["tsa", *words]
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run(there: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], environment: Any) -> None:
    faulthandler.register(signal.SIGUSR1)
    os.environ |= {name: str(value) for name, value in environment.items()}
    torch.set_num_threads(1)
    there.send(True)
    try:
        there.send((function(*arguments), None))
    except Exception as error:
        there.send((None, f"{type(error).__name__}: {error}"))


def drawn(store: EventStore, config: TrainingConfig, epoch: int = 1) -> EpochSample:
    return Sampler(store, store.labelled("train"), config).epoch(epoch, lambda rows: np.zeros(len(rows), np.float32))
