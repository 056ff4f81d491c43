"""Folds in several processes: the same results; whoever is killed, no process remains, and finished folds are used again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.easy_log import FAST, TINY
from support.squares import squared
from tsa.backtest.workers import in_processes
from tsa.data.store.store import EventStore
from tsa.progress import Advance

SECONDS = 300.0
LONG = pytest.mark.skipif("TSA_LONG" not in os.environ, reason="takes long: set TSA_LONG=1")


def test_results_and_progress() -> None:
    seen: dict[str, int] = {}

    @contextmanager
    def noted(what: str, total: int) -> Iterator[Advance]:
        seen[what] = 0

        def advance(done: int) -> None:
            seen[what] += done

        yield advance

    made = dict(in_processes(squared, [(3,), (4,)], 2, noted))
    assert made == {0: 9, 1: 16}
    assert seen == {"number 3": 2, "number 4": 2}
    with pytest.raises(ValueError, match="too low"):
        list(in_processes(squared, [(-1,)], 1, noted))


def words(store: EventStore, out: Path, workers: int) -> list[str]:
    settings = {"model": {**TINY, "parts": "network"}, "training": {**FAST, "epochs": 1}}
    sets = [f"{table}.{name}={json.dumps(value)}" for table, some in settings.items() for name, value in some.items()]
    schedule = ["--from", "2018-05-17", "--every", "1d", "--test", "1d", "--replicates", "10", "--no-compare"]
    options = ["--workers", str(workers), "--resume", "--out", str(out)]
    given = [word for text in sets for word in ("--set", text)]
    return [sys.executable, "-m", "tsa", "backtest", str(store.path), *schedule, *options, *given, "-q"]


def children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any) -> None:
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends, "took too long"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=LONG)])
def test_killed_with_its_workers_gone_and_continued(easy_store: EventStore, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(words(easy_store, out, 2), stderr=subprocess.PIPE) as process:
        wait_for(lambda: list(out.glob("folds/*/fold.json")) or process.poll() is not None)
        assert process.poll() is None, process.stderr and process.stderr.read()
        workers = children(process.pid)
        assert len(workers) >= 2
        os.kill(process.pid, number)
        code = process.wait(SECONDS)
    assert code == (-number if number == signal.SIGKILL else 130)
    wait_for(lambda: not any(map(alive, workers)))
    finished = {path: path.stat().st_mtime_ns for path in out.glob("folds/*/fold.json")}
    assert len(finished) < 6
    assert not (out / "backtest.json").exists()
    again = subprocess.run(words(easy_store, out, 1), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    result = json.loads((out / "backtest.json").read_text())
    assert [one["name"] for one in result["folds"]] == [f"2018-05-{day}" for day in range(17, 23)]
    assert not any("skipped" in one for one in result["folds"])
