"""What the tests of the whole way share: a small simulated log, and one small run of the main job on it, made once.

Commands run inside this process, through the very `main` of the command line. Tests that change a run copy it first.

Everything computes with one thread, here and in processes that tests start: on as many cores as there are test workers, two
threads that wait for each other take many times as long. Tests that are about threads set them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
import torch

from support.easy_log import stored
from support.history_case import MARKET as HISTORY_MARKET
from support.history_case import Case, RedisServer, make_case
from support.legacy_folder import GOLDEN
from support.mlflow_server import mlflow_server
from tsa.cli import main
from tsa.data.store.store import EventStore
from tsa.model.network_and_trees import Joining

for _name in [name for name in os.environ if name.startswith("TSA_") and name != "TSA_LONG"]:
    del os.environ[_name]  # settings of the person who runs the tests, such as TSA_NEW_STORE
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that are started from here
torch.set_num_threads(1)

MARKET = Path(__file__).parents[1] / "markets" / "demo.toml"
SHORT_HISTORIES = ("--set", "history.0.length=8", "--set", "history.1.length=8")
SMALL = ("--set", "model.width=16", "--set", "training.batch_size=64", "--set", "training.epochs=2")
SMALL += ("--set", "model.n_tree_ensemble=2")


SLOW_FACTOR = 6.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked slow may take longer."""
    seconds = float(config.getoption("timeout", None) or config.getini("timeout") or 0)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_FACTOR * seconds))


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def run_tsa(*arguments: object) -> Outcome:
    """Run a command; its exit code and what it wrote."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["tsa", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def tsa() -> Callable[..., Outcome]:
    """`tsa("train", store, "--out", run)` runs that command."""
    return run_tsa


@pytest.fixture(scope="session")
def demo_market() -> Path:
    return MARKET


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Settings of a training that takes a second."""
    return SMALL


@pytest.fixture(scope="session")
def demo_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6,000 simulated payments, one in twenty of them fraud."""
    log = tmp_path_factory.mktemp("log") / "payments.parquet"
    assert run_tsa("simulate", "--payments", 6000, "--fraud-rate", 0.05, "--out", log).code == 0
    return log


@pytest.fixture(scope="session")
def demo_outcome(demo_log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a finished run, its comparison included, and what `tsa run` said of it. Not to be changed."""
    run = tmp_path_factory.mktemp("demo") / "run"
    # whether both parts count must not depend on the chance of a short training
    both = ("--set", "model.parts=combined")
    with patch("tsa.model.network_and_trees.ENOUGH_CASES", 1):  # neither part is left out, however few the frauds
        return run, run_tsa("run", "--market", MARKET, *SHORT_HISTORIES, *SMALL, *both, demo_log, "--out", run)


@pytest.fixture(scope="session")
def demo_run(demo_outcome: tuple[Path, Outcome]) -> Path:
    run, outcome = demo_outcome
    assert outcome.code == 0, outcome.err
    return run


@pytest.fixture(scope="session")
def demo_store(demo_run: Path) -> EventStore:
    return EventStore.open(demo_run / "store")


@pytest.fixture
def own_run(demo_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, store included, that a test may change."""
    return Path(shutil.copytree(demo_run, tmp_path / "own"))


@pytest.fixture(scope="session")
def easy_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,600 payments in 16 days: fraud is what has category "bad", which is one in eight."""
    n = 1600
    bad = [index % 8 == 3 for index in range(n)]
    frame = pl.DataFrame(
        {
            "id": range(n),
            "time": [1_525_651_200 + 864 * index for index in range(n)],
            "fraud": [int(value) for value in bad],
            "customer": [index * 7 % 40 for index in range(n)],
            "category": ["bad" if value else ("good", "fair")[index % 2] for index, value in enumerate(bad)],
            "amount": [float(index * 31 % 97) for index in range(n)],
        }
    )
    path = tmp_path_factory.mktemp("easy") / "easy.parquet"
    frame.write_parquet(path)
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="session")
def combined_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """As `case`, with trees that see more events than the network."""
    market = {**HISTORY_MARKET, "trees": {"history_length": 20}}
    joining = Joining(network=0.5, trees=0.7, intercept=-0.3)
    return make_case(tmp_path_factory.mktemp("combined"), market, joining=joining)


@pytest.fixture(scope="session")
def mlflow_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a real server of MLflow."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if not RedisServer.installed():
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def history_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, of each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'histories.db'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


@pytest.fixture(scope="session")
def easy_store(easy_log: Path, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(pl.read_parquet(easy_log), tmp_path_factory.mktemp("easy-store"))


@pytest.fixture(scope="session")
def golden_scores() -> dict[str, Any]:
    return json.loads((GOLDEN / "scores.json").read_text())


@pytest.fixture
def hangup_ends() -> Iterator[None]:
    """SIGHUP has its usual effect, also if pytest itself was started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
