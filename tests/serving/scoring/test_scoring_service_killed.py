"""Killed at any moment: nothing that was acknowledged is missing, nothing stands twice, scores go on as offline ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from support.history_case import (
    Case,
    RedisServer,
    answer_of,
    assert_nothing_lost,
    assert_same,
    frame,
    random_rows,
    request,
)
from tsa.serving.history.base import HistoryStore
from tsa.serving.history.factory import open_history
from tsa.serving.scoring.scoring_service import ScoringService

pytestmark = pytest.mark.slow

KILLS = 20 if os.environ.get("TSA_LONG") else 5
TESTS = Path(__file__).parents[2]


class Killing:
    """A process that scores a log, again from where the acknowledged payments end, until it is killed."""

    def __init__(self, case: Case, url: str, folder: Path) -> None:
        self.rows = [{**row, "fraud": None, "reported": None} for row in random_rows(3000, seed=5, cards=30, shops=9)]
        self.case, self.url, self.log = case, url, folder / "log.parquet"
        self.acknowledged: dict[str, float] = {}
        frame(self.rows).write_parquet(self.log)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "support.killed_scorer", self.case.path, self.log, self.url]
        pipe = subprocess.PIPE
        self._forking = subprocess.Popen(
            list(map(str, command)),
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=TESTS,
            start_new_session=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._forking.pid, signal.SIGKILL)  # with a child that is still there after a failure
        self._forking.communicate()

    def run(self, rng: np.random.Generator, server: RedisServer | None = None) -> None:
        """Begin a little before the end of what is acknowledged, as a client does that is not sure; kill it soon."""
        process = self._forking
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{max(0, len(self.acknowledged) - 6)}\n")
        process.stdin.flush()
        pid = int(process.stdout.readline().removeprefix("pid "))
        lines = [process.stdout.readline()]
        while lines[-1].split()[0] in self.acknowledged:
            lines.append(process.stdout.readline())
        # a payment is new: from here on, any moment
        time.sleep(float(rng.uniform(0, 0.2)))
        if server is not None:
            server.kill()
        os.kill(pid, signal.SIGKILL)
        while lines[-1] != "gone\n":
            lines.append(process.stdout.readline())
        for line in lines[:-1]:
            id_, score = line.split()
            self.acknowledged.setdefault(id_, float(score))

    def check(self, store: HistoryStore) -> None:
        assert_nothing_lost(store, self.rows, self.acknowledged)


@pytest.mark.parametrize("killed", ["sqlite client", "redis client", "redis server"])
def test_killed_at_random_moments(killed: str, case: Case, tmp_path: Path, request_redis: RedisServer | None) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}" if request_redis is None else request_redis.url
    rng, kills = np.random.default_rng(7), 3 if killed == "redis server" else KILLS
    with Killing(case, url, tmp_path) as killing:
        for _ in range(kills):
            killing.run(rng, request_redis if killed == "redis server" else None)
            if killed == "redis server" and request_redis is not None:
                request_redis.start()
            with open_history(url) as store:
                killing.check(store)
    done = len(killing.acknowledged)
    assert done >= kills, "each time it came further"
    with open_history(url) as store:  # what may have been written unacknowledged is asked for again, and it goes on
        scoring_service = ScoringService(case.scorer(), store)
        for row in killing.rows[done - 2 : done + 60]:
            answer = answer_of(scoring_service.score([request(row)])[0])
            killing.acknowledged.setdefault(answer.id, answer.raw_score)
        killing.check(store)
    assert_same(killing.acknowledged, case.offline(killing.rows))


@pytest.fixture
def request_redis(killed: str, request: pytest.FixtureRequest) -> RedisServer | None:
    """A fresh Redis where the test is of one."""
    if killed.startswith("sqlite"):
        return None
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server
