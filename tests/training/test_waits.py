"""Training waits for nothing without end: small shared memory, workers that do not answer, processes that fall silent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from support.easy_log import TINY, settings, side_by_side
from tsa.data.store.store import EventStore
from tsa.errors import TrainingError
from tsa.training import distributed
from tsa.training.data import loader
from tsa.training.data.loader import EpochLoader
from tsa.training.data.worker_pipe import packed, unpacked
from tsa.training.diagnostics import translate_resource_errors
from tsa.training.distributed import DistributedContext, distributed_context
from tsa.training.ending.stop_signals import capture_sigterm


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a /dev/shm of its own")
@pytest.mark.parametrize(("size", "code"), [("256k", 0), ("16k", 2)])
def test_workers_need_next_to_no_shared_memory(easy_store: EventStore, tmp_path: Path, size: str, code: int) -> None:
    words = [sys.executable, "-m", "tsa", "train", easy_store.path, "--out", tmp_path / "run", "--quiet"]
    for key, value in {**{f"model.{name}": size for name, size in TINY.items()}, "training.num_workers": 2}.items():
        words += ["--set", f"{key}={value}"]
    words += ["--set", "training.epochs=1", "--set", "training.batch_size=64"]
    small = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", small, "sh", *map(str, words)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == code, found.stderr
    assert (tmp_path / "run" / "bundle" / "manifest.json").exists() == (code == 0)
    if code:
        assert found.stderr.startswith("error: TrainingError: training.num_workers=2 needs 112 kB in /dev/shm")
    assert not any(text in found.stderr for text in ("Traceback", "Alarm")), found.stderr


def test_what_is_handed_over_is_the_same() -> None:
    batch = {"a": torch.arange(6).reshape(2, 3), "b": None, "c": torch.tensor([True, False])}
    found = unpacked(packed(batch))
    assert found["b"] is None
    assert all(torch.equal(found[name], batch[name]) for name in ("a", "c"))
    assert found["c"].dtype == torch.bool


def test_waits_for_a_batch_end(easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MAX_WAIT_SECONDS", 1)
    monkeypatch.setattr(loader, "loaded", lambda store, task: time.sleep(60))
    from support.easy_log import drawn

    config = settings(num_workers=1)
    waiting = EpochLoader(easy_store, config, DistributedContext(torch.device("cpu")))
    with (
        pytest.raises(TrainingError, match="a worker process must gather a batch in time"),
        translate_resource_errors(tmp_path),
    ):
        next(waiting.steps(drawn(easy_store, config)))


def work_in_the_first() -> str:
    """One that is too busy to give signs of life is not waited for longer than it may be silent."""
    distributed.HEARTBEAT_SECONDS, distributed.MAX_SILENCE_SECONDS = 30.0, 1.0
    with distributed_context("cpu") as processes:
        processes.run_then_barrier("a long work", (lambda: time.sleep(4)) if processes.is_main else None)
    return "done"


def work_with_signs() -> str:
    distributed.HEARTBEAT_SECONDS, distributed.MAX_SILENCE_SECONDS = 0.2, 1.5
    with distributed_context("cpu") as processes:
        processes.run_then_barrier("a long work", (lambda: time.sleep(4)) if processes.is_main else None)
    return "done"


def test_processes_wait_for_signs_of_life_alone() -> None:
    assert [one.value for one in side_by_side(2, work_with_signs)] == ["done", "done"]
    _, other = side_by_side(2, work_in_the_first)
    assert other.error is not None
    assert "a process must send heartbeats during a long work (got none in 1 s)" in other.error


@pytest.mark.usefixtures("hangup_ends")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with capture_sigterm() as asked:
        os.kill(os.getpid(), number)
        assert asked.to_stop
    assert signal.getsignal(number) is before


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with capture_sigterm() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked.to_stop
    finally:
        signal.signal(signal.SIGHUP, before)
