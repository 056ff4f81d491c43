"""Training by processes of a Ray cluster: the weights of torchrun to the bit, also where a process is killed or all are stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.easy_log import TINY, run_command, side_by_side
from tsa.bundle.manifest import WEIGHTS
from tsa.cli.training.by_ray import failure_of
from tsa.data.store.store import EventStore
from tsa.errors import ClusterError, ConfigError, TrainingError
from tsa.scale import processes
from tsa.scale.processes import Ended, SharedFolder, run_until_done

pytestmark = pytest.mark.slow

SETS = {"model.parts": "network", "training.batch_size": 64, "training.epochs": 4, "training.early_stopping": "true"}
FAILING = """
import os, signal, sys, time
from tsa.cli import main
from tsa.training.trainer import Trainer

original, marks = Trainer._step, {marks!r}

def once(name):
    if os.path.exists(path := os.path.join(marks, name)):
        return False
    open(path, "w").close()
    return True

def step(self, parts, epoch):
    if self.processes.rank == 1 and epoch == 2 and once("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if self.processes.rank == 1 and epoch == 3 and {stopped!r} and once("stopped"):
        os.kill({stopped!r}, signal.SIGTERM)
        while not self.hooks.asked.to_stop:
            time.sleep(0.05)
    return original(self, parts, epoch)

Trainer._step = step
sys.argv[0] = "tsa"
main()
"""


def words_of(store: EventStore, out: Path) -> list[str]:
    sets = [word for key, value in SETS.items() for word in ("--set", f"{key}={value}")]
    sets += [word for name, value in TINY.items() for word in ("--set", f"model.{name}={value}")]
    return ["train", str(store.path), "--out", str(out), "--quiet", *sets]


def failing(folder: Path, monkeypatch: pytest.MonkeyPatch, *, stopped: int = 0) -> Path:
    """Let a process be killed in epoch 2, and this one be stopped in epoch 3, once each. Returns the folder that says so."""
    marks = folder / "marks"
    marks.mkdir()
    (folder / "failing.py").write_text(FAILING.format(marks=str(marks), stopped=stopped))
    monkeypatch.setattr(processes, "PROGRAM", (str(folder / "failing.py"),))
    return marks


def test_weights_are_those_of_torchrun_although_a_process_is_killed(
    ray: Any, easy_store: EventStore, tmp_path: Path, tsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for end in side_by_side(2, run_command, words_of(easy_store, tmp_path / "torchrun")):
        assert end.value[0] == 0, end
    marks = failing(tmp_path, monkeypatch)
    made = tsa(*words_of(easy_store, tmp_path / "ray"), "--executor", "ray", "--workers", 2)
    assert (made.code, made.err) == (0, "")
    assert [path.name for path in marks.iterdir()] == ["killed"]
    assert "process 1 was lost (killed by SIGKILL): all start again" in (tmp_path / "ray" / "ray.log").read_text()
    weights = [(tmp_path / name / "bundle" / WEIGHTS).read_bytes() for name in ("torchrun", "ray")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "ray" / ".cluster").exists()


@pytest.mark.skipif("TSA_LONG" not in os.environ, reason="starts ten processes; set TSA_LONG=1")
def test_a_stopped_training_continues(
    ray: Any, easy_store: EventStore, tmp_path: Path, tsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, started again, stopped by SIGTERM, and continued: the weights of torchrun itself."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tsa"]
    subprocess.run([*torchrun, *words_of(easy_store, tmp_path / "torchrun")], check=True, capture_output=True)
    marks = failing(tmp_path, monkeypatch, stopped=os.getpid())
    words = [*words_of(easy_store, tmp_path / "ray"), "--executor", "ray", "--workers", 2]
    made = tsa(*words)
    assert made.code == 143, made.err
    assert "stopped by a signal; continue with --resume" in made.err
    assert not (tmp_path / "ray" / "bundle").exists()
    made = tsa(*words, "--resume")
    assert made.code == 0, made.err
    assert sorted(path.name for path in marks.iterdir()) == ["killed", "stopped"]
    weights = [(tmp_path / name / "bundle" / WEIGHTS).read_bytes() for name in ("torchrun", "ray")]
    assert weights[0] == weights[1]
    made = tsa(*words)
    assert "holds a finished run" in made.err


def test_an_error_is_that_of_the_process(
    ray: Any, easy_store: EventStore, tmp_path: Path, tsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no lost process: nothing starts again."""
    words = [*words_of(easy_store, tmp_path / "run"), "--set", "training.batch_size=100000"]
    made = tsa(*words, "--executor", "ray", "--workers", 1)
    assert made.code == 2
    assert made.err.startswith("error: TrainingError: an epoch must fill a batch")
    made = tsa(*words, "--workers", 2)
    assert "--workers needs --executor ray" in made.err
    monkeypatch.setattr(processes, "RESERVE_SECONDS", 0.5)
    made = tsa(*words_of(easy_store, tmp_path / "new"), "--executor", "ray", "--workers", 3)
    assert "the cluster must have 3 free processors within 0.5 s (it has 2 in all)" in made.err


def test_lost_again_and_again(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "marker").write_text("here")
    folder = SharedFolder(marker=tmp_path / "marker", text="here")
    monkeypatch.setattr(processes, "PROGRAM", ("-c", "import os; os.kill(os.getpid(), 9)"))
    monkeypatch.setattr(processes, "RETRIES", 1)
    attempts: list[int] = []

    def words(attempt: int) -> list[str]:
        attempts.append(attempt)
        return []

    with pytest.raises(ClusterError, match=r"more than 1 times .*killed by SIGKILL; out of memory"):
        run_until_done(ray, words, 1, folder=folder, watch=lambda: False)
    assert attempts == [0, 1]
    with pytest.raises(ClusterError, match="must be a folder that all nodes of the cluster share"):
        run_until_done(ray, words, 1, folder=SharedFolder(marker=tmp_path / "marker", text="x"), watch=lambda: False)


def test_a_stop_before_there_are_processors(ray: Any, tmp_path: Path) -> None:
    folder = SharedFolder(marker=tmp_path / "marker", text="here")
    ended = run_until_done(ray, lambda attempt: [], 3, folder=folder, watch=lambda: True)
    assert [one.code for one in ended] == [143] * 3


def test_what_is_lost() -> None:
    assert [Ended(code=code).is_lost for code in (None, -9, 0, 2)] == [True, True, False, False]
    assert not Ended(code=-9, was_asked=True).is_lost


def test_the_error_of_several_processes_is_that_of_the_first_that_failed() -> None:
    lost = "error: OtherProcessError: process 1: ConfigError: x must\nbe y\n"
    own = "warning\nerror: ConfigError: x must\nbe y\nnext: correct the option\n"
    error = failure_of([lost, own])
    assert (type(error), str(error)) == (ConfigError, "x must be y")
    assert str(failure_of([lost])) == "process 1: ConfigError: x must be y"
    bug = failure_of(["", "Traceback (most recent call last):\n  ...\nZeroDivisionError: a bug\n", lost])
    assert type(bug) is TrainingError
    assert "a process failed (ZeroDivisionError: a bug)" in str(bug)
