"""Several processes: the same losses and scores as one, one writer, and no failure that hangs or is not told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.easy_log import TINY, Ended, alone, die, run_command, settings, side_by_side
from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.errors import TrainingError
from tsa.inference.score_parts import score_events
from tsa.model import TSANetwork
from tsa.progress import silent
from tsa.training import train
from tsa.training.distributed import LOST_PROCESS, DistributedContext, distributed_context
from tsa.training.ending.stop_signals import StopRequest
from tsa.training.epoch_stats import reproducible
from tsa.training.parts.trees import fit_trees
from tsa.training.train_model import network_settings
from tsa.training.train_step import StepResult
from tsa.training.trainer import Callbacks, Trainer
from tsa.training.validation import DistributedScorer

STEPS = 50


class EnoughError(Exception):
    pass


def losses(path: str, changes: dict[str, Any]) -> list[float]:
    """Of the first 50 steps, over all processes."""
    store, config, found = EventStore.open(path), settings(epochs=60, early_stopping=False, **changes), []

    def on_step(step: StepResult) -> None:
        found.append(step.loss)
        if len(found) == STEPS:
            raise EnoughError

    rows = {"train": store.labelled("train"), "validation": store.labelled("validation")}
    with distributed_context("cpu") as processes:
        torch.manual_seed(config.seed)
        network = TSANetwork(network_settings(store, "default", {**TINY, "dropout": 0.0, "feature_dropout": 0.0}))
        try:
            Trainer(network, store, rows, config, processes, Callbacks(on_step=on_step)).fit()
        except EnoughError:
            return found
    raise AssertionError("too few steps")


@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient_accumulation_steps": 2, "length_bucket_batches": 4, "batch_size": 63}],
    ids=["plain", "in parts"],
)
def test_two_processes_learn_what_one_learns(easy_store: EventStore, changes: dict[str, Any]) -> None:
    """The same batch in two halves, or in four: the same losses but for rounding, step by step."""
    one = alone(losses, str(easy_store.path), {**changes, "gradient_accumulation_steps": 1})
    two = side_by_side(2, losses, str(easy_store.path), changes)
    assert one.error is None, one.error
    assert [ended.error for ended in two] == [None, None]
    assert len(one.value) == STEPS
    assert one.value[0] > 2 * one.value[-1], "something was learned"
    assert two[0].value == two[1].value, "all know the loss over all"
    np.testing.assert_allclose(two[0].value, one.value, atol=1e-4, rtol=0)


def scores(path: str, counts: list[int]) -> list[np.ndarray]:
    store = EventStore.open(path)
    with distributed_context("cpu") as processes:
        scoring = DistributedScorer(store, processes, silent, StopRequest())
        return [scoring(network_of(store), np.arange(n)[::-1].copy(), "scoring") for n in counts]


def network_of(store: EventStore) -> TSANetwork:
    torch.manual_seed(1)
    return TSANetwork(network_settings(store, "default", TINY))


@pytest.mark.usefixtures("one_thread")
def test_scores_are_gathered_exactly(easy_store: EventStore) -> None:
    """Any count, fewer than processes too: each payment once, and to the bit what one process finds."""
    counts = [0, 1, 2, 511, 512, 513, 1024, 1301]
    expected = score_events(network_of(easy_store), easy_store, np.arange(1301))
    for found in side_by_side(3, scores, str(easy_store.path), counts):
        assert found.error is None, found.error
        for n, score in zip(counts, found.value, strict=True):
            np.testing.assert_array_equal(score, score_events(network_of(easy_store), easy_store, np.arange(n)[::-1]))
            np.testing.assert_allclose(score, expected[:n][::-1], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 7, 100])
def test_parts_are_a_partition(n: int, count: int) -> None:
    parts = [DistributedContext(torch.device("cpu"), rank, count).shard(n) for rank in range(count)]
    assert [at for part in parts for at in range(n)[part]] == list(range(n))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def fails_in(rank: int, path: str, out: str, how: str) -> None:
    """A run in which one process fails in the second step, all others being in the midst of theirs."""
    steps = 0

    def fail(parts: Any, epoch: int) -> Any:
        nonlocal steps
        steps += 1
        if steps == 2 and int(os.environ["RANK"]) == rank:
            die() if how == "killed" else raising(how)
        return step(parts, epoch)

    store = EventStore.open(path)
    original = Trainer._step

    def patched(self: Trainer, parts: Any, epoch: int) -> Any:
        nonlocal step
        step = lambda *arguments: original(self, *arguments)  # noqa: E731
        return fail(parts, epoch)

    step: Any = None
    Trainer._step = patched  # type: ignore[method-assign]
    train(store, out, model=TINY, training=settings())


def raising(how: str) -> None:
    raise TrainingError("the disk is on fire") if how == "typed" else ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    ("rank", "how", "told"),
    [
        (1, "typed", "process 1: TrainingError: the disk is on fire"),
        (0, "bug", "process 0: ZeroDivisionError: a bug"),
        (1, "killed", LOST_PROCESS),
    ],
)
def test_one_failure_ends_all_and_is_told(
    easy_store: EventStore, tmp_path: Path, rank: int, how: str, told: str
) -> None:
    began = time.monotonic()
    ends = side_by_side(2, fails_in, rank, str(easy_store.path), str(tmp_path / "run"), how)
    assert time.monotonic() - began < 100, "long before anything times out"
    assert ends[1 - rank].error == f"OtherProcessError: {told}"
    if how == "killed":
        assert ends[rank] == Ended(-signal.SIGKILL)
    else:
        assert ends[rank].error == told.removeprefix(f"process {rank}: ")
    assert not (tmp_path / "run" / "bundle").exists()


def different_stores(paths: list[str], out: str) -> None:
    train(paths[int(os.environ["RANK"])], out, model=TINY, training=settings(seed=int(os.environ["RANK"])))


def test_processes_of_different_runs_are_refused(easy_store: EventStore, tmp_path: Path) -> None:
    ends = side_by_side(2, different_stores, [str(easy_store.path)] * 2, str(tmp_path / "run"))
    assert any("all processes must train the same run" in str(end.error) for end in ends)
    assert any("training.seed" in str(end.error) for end in ends)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_more_processes_than_payments_of_a_batch(easy_store: EventStore, tmp_path: Path) -> None:
    def sizes(**changes: Any) -> str:
        ends = side_by_side(2, too_small, str(easy_store.path), str(tmp_path / "run"), changes)
        return str(ends[0].error)

    assert "each process must get a payment of each part of a batch" in sizes(batch_size=1)
    assert "2 processes, training.batch_size=4, training.gradient_accumulation_steps=4" in sizes(
        batch_size=4, gradient_accumulation_steps=4
    )
    assert not (tmp_path / "run").exists()


def too_small(path: str, out: str, changes: dict[str, Any]) -> None:
    train(path, out, model=TINY, training=settings(**changes))


SMALL = ("model.width=8", "model.n_heads=2", "model.feedforward_width=16", "model.classifier_width=16")


def command(store: EventStore, out: Path, *sets: str) -> list[str]:
    words = ["train", str(store.path), "--out", str(out), "--quiet"]
    return words + [word for value in (*SMALL, "training.batch_size=64", *sets) for word in ("--set", value)]


def test_the_command_in_two_processes(easy_store: EventStore, tmp_path: Path) -> None:
    """One run folder, one log, one line of output; what is wrong is said once by the process that found it, and logged."""
    run = tmp_path / "run"
    first, second = side_by_side(2, run_command, command(easy_store, run, "training.epochs=2"))
    assert first.value == (0, f"bundle: {run / 'bundle'}\n", "")
    assert second.value == (0, "", "")
    account = json.loads((run / "run.json").read_text())
    assert account["environment"]["processes"] == 2
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert (run / "train.log").read_text().count("epoch 1 of 2") == 1, "one process logs"
    assert Bundle.open(run / "bundle").training["epochs"] == reproducible(account["epochs"])

    bundle = Bundle.open(run / "bundle")
    rows = [easy_store.labelled(name) for name in ("train", "validation")]
    n_ensemble = bundle.config.n_tree_ensemble
    trees = fit_trees(easy_store, *rows, seed=settings().seed, threads=1, n_ensemble=n_ensemble)
    assert bundle.trees is not None
    assert bundle.trees.trees.text == trees.trees.text, "the trees of one process, to the bit"

    bad = tmp_path / "bad"
    ends = side_by_side(2, run_command, command(easy_store, bad, "training.batch_size=1"))
    assert [end.value[0] for end in ends] == [2, 2]
    assert sum("error: TrainingError: each process must get a payment" in end.value[2] for end in ends) == 1
    assert "each process must get a payment" in (bad / "train.log").read_text()


def test_torchrun(easy_store: EventStore, tmp_path: Path) -> None:
    """One of its processes is killed: it ends, the other with it, and what was saved is there."""
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tsa"]
    words = [*torchrun, *command(easy_store, run, "training.epochs=5000", "training.early_stopping=false")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        wait_for(run / "checkpoints" / "last-000002-000000000" / "manifest.json", process)
        victim, *others = workers(process.pid)
        os.kill(victim, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"Signal 9 (SIGKILL) received by PID {victim}" in said
    assert all(not Path(f"/proc/{other}").exists() for other in others)
    assert list((run / "checkpoints").glob("last-*"))
    assert "Traceback" not in (run / "train.log").read_text()


def test_processes_end_with_torchrun(easy_store: EventStore, tmp_path: Path) -> None:
    """Nobody is left to end them if it is killed."""
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tsa"]
    words = [*torchrun, *command(easy_store, run, "training.epochs=5000", "training.early_stopping=false")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        wait_for(run / "checkpoints" / "last-000002-000000000" / "manifest.json", process)
        left = workers(process.pid)
        process.kill()
        process.communicate(timeout=120)  # its processes share the pipe: this waits for them as well
    assert len(left) == 2
    assert not any(running(pid) for pid in left)
    # the process that notices it first stops the others; only the first process writes the log
    log = (run / "train.log").read_text()
    assert "the parent process is gone" in log or "stopped by a signal" in log


def running(pid: int) -> bool:
    """Whether a process has not ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not path.exists() and process.poll() is None:
        time.sleep(0.05)
    if not path.exists():
        process.kill()
        raise AssertionError(process.communicate()[1])


def workers(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
