"""Work by a real Ray cluster of two workers on loopback: the results of one process, also where workers are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from support.days import DAY, START, Days, days_case, files_of
from support.easy_log import FAST, TINY
from tsa.backtest import BacktestSchedule, BacktestSettings, backtest
from tsa.data.store import encoded_rows, history_parts
from tsa.data.store.append import append
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ClusterError, ConfigError, DataError
from tsa.inference.score_days import score_by_day
from tsa.scale import cluster, scoring
from tsa.scale.cluster import in_cluster, ray_cluster
from tsa.scale.preparing import ray_workers
from tsa.scale.scoring import ray_days
from tsa.training import TrainingConfig

pytestmark = pytest.mark.slow
HOW: dict[str, Any] = {"engine": "torch", "precision": "float32"}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return days_case(tmp_path_factory.mktemp("days"))


def test_a_killed_worker_is_replaced(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = int(signal.SIGKILL)

    def work(shared: str, item: int) -> int:
        if item == 3 and not os.path.exists(shared):
            open(shared, "w").close()
            os.kill(os.getpid(), kill)
        return item * item

    def ends(number: int, item: int) -> None:
        os.kill(os.getpid(), number)

    marker = str(tmp_path / "killed")
    assert dict(in_cluster(ray, work, marker, range(12))) == {item: item * item for item in range(12)}
    assert os.path.exists(marker)
    monkeypatch.setattr(cluster, "RETRIES", 0)
    with pytest.raises(ClusterError, match="must not lose its workers more than 0 times"):
        list(in_cluster(ray, ends, kill, [1]))


def test_errors_of_the_work_are_those_of_one_process(ray: Any) -> None:
    def refuse(shared: object, item: int) -> int:
        from tsa.errors import DataError

        raise DataError(f"amount must be positive (got {item})") if item else ValueError("a bug")

    with pytest.raises(DataError, match=r"amount must be positive \(got 1\)$"):
        list(in_cluster(ray, refuse, None, [1]))
    with pytest.raises(ClusterError, match=r"a worker failed \(ValueError: a bug\)"):
        list(in_cluster(ray, refuse, None, [0]))


def test_scores_are_those_of_one_process_to_the_byte(
    ray: Any, case: Days, tmp_path: Path, tsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**HOW, "overrides": ()}
    score_by_day(case.scorer, case.store, tmp_path / "local", settings=settings)
    marker, real, kill = str(tmp_path / "killed"), scoring.score_in_worker, int(signal.SIGKILL)

    def killed_once(shared: scoring.Shared, day: Any) -> Any:
        if day.name == "2018-05-11" and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), kill)
        return real(shared, day)

    monkeypatch.setattr(scoring, "score_in_worker", killed_once)
    outcome = tsa("score", case.folder / "bundle", case.store.path, "--out", tmp_path / "ray", "--executor", "ray")
    assert outcome.code == 0, outcome.err
    assert os.path.exists(marker)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")


def test_a_run_that_fails_leaves_no_scores_and_is_continued(
    ray: Any, case: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", scoring.score_in_worker

    def failing(shared: scoring.Shared, day: Any) -> Any:
        if day.name == "2018-05-15":
            raise DataError("scores must be finite")
        return real(shared, day)

    def score(store: EventStore) -> Any:
        return ray_days(ray, case.folder / "bundle", store, **HOW)

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "score_in_worker", failing)
        with pytest.raises(DataError, match="scores must be finite"):
            score_by_day(case.scorer, case.store, out, settings=HOW, score=score)
    assert not out.exists()
    score_by_day(case.scorer, case.store, out, settings=HOW, score=score)
    score_by_day(case.scorer, case.store, tmp_path / "local", settings=HOW)
    assert files_of(out) == files_of(tmp_path / "local")


def test_a_node_without_the_store_says_so(ray: Any, case: Days, tmp_path: Path) -> None:
    store = prepare(case.scorer.bundle.market, case.log, tmp_path / "store")
    score = ray_days(ray, case.folder / "bundle", store, **HOW)
    gone = tmp_path / "gone"

    def renamed(task: Any, days: Any, folder: Path) -> Any:
        made = score(task, days, folder)
        store.path.rename(gone)
        (store.path).mkdir()
        (store.path / "manifest.json").write_bytes((gone / "manifest.json").read_bytes())
        return made

    with pytest.raises(ClusterError, match="each node of the cluster must see the store"):
        score_by_day(case.scorer, store, tmp_path / "out", settings=HOW, score=lambda store: renamed)


def test_a_store_is_that_of_one_process_to_the_byte(
    ray: Any, case: Days, tmp_path: Path, tsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    market, logs = case.scorer.bundle.market, [tmp_path / name for name in ("a.parquet", "b.csv", "c.parquet")]
    case.table[600:1290].write_parquet(logs[0])
    case.table[:600].sample(fraction=1, shuffle=True, seed=0).write_csv(logs[1])
    case.table[1290:].write_parquet(logs[2])
    prepare(market, logs[:2], tmp_path / "here")
    marker, real, kill = str(tmp_path / "killed"), encoded_rows._encode_part, int(signal.SIGKILL)

    def killed_once(shared: Any, part: Any) -> Any:
        if part[0] > 0 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), kill)
        return real(shared, part)

    monkeypatch.setattr(encoded_rows, "_encode_part", killed_once)
    prepare(market, logs[:2], tmp_path / "there", workers=ray_workers(ray))
    assert os.path.exists(marker)
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    append(tmp_path / "here", logs[2])
    outcome = tsa("prepare", "--append", tmp_path / "there", logs[2], "--executor", "ray")
    assert outcome.code == 0, outcome.err
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_a_store_that_fails_is_not_there(ray: Any, case: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(shared: Any, part: int) -> Any:
        raise DataError("events must have places")

    monkeypatch.setattr(history_parts, "_place_part", failing)
    with pytest.raises(DataError, match="events must have places"):
        prepare(case.scorer.bundle.market, case.log, tmp_path / "store", workers=ray_workers(ray))
    assert list(tmp_path.iterdir()) == []


def test_a_backtest_is_that_of_one_process(ray: Any, case: Days, tmp_path: Path) -> None:
    schedule = BacktestSchedule(start=START + 9.0 * DAY, every=3.0 * DAY, test=2.0 * DAY)
    training = TrainingConfig.make({**FAST, "epochs": 1})
    settings = BacktestSettings(model={**TINY, "parts": "network"}, training=training, replicates=10, baseline=False)
    here = backtest(case.store, tmp_path / "here", schedule=schedule, settings=settings)
    there = backtest(case.store, tmp_path / "there", schedule=schedule, settings=settings, cluster=ray)
    assert len(here["folds"]) == 2
    assert [one.get("skipped") for one in here["folds"]] == [None, None]
    scores = [sorted((tmp_path / name).rglob("*.parquet")) for name in ("here", "there")]
    assert scores[0]
    assert [path.read_bytes() for path in scores[0]] == [path.read_bytes() for path in scores[1]]
    assert here["summary"].keys() == there["summary"].keys()
    with pytest.raises(ConfigError, match="workers must be 1 with a cluster"):
        backtest(case.store, tmp_path / "there", schedule=schedule, settings=settings, cluster=ray, workers=2)
    warm = replace(settings, warm_start=True)
    with pytest.raises(ConfigError, match="workers must be 1 with a warm start"):
        backtest(case.store, tmp_path / "there", schedule=schedule, settings=warm, cluster=ray)


def test_a_cluster_that_is_not_there(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    rule = r"the Ray cluster 10.0.0.9:6379 cannot be reached \(nobody"
    with pytest.raises(ClusterError, match=rule), ray_cluster("10.0.0.9:6379"):
        pass


def refused(*, address: str, **settings: Any) -> None:
    raise ConnectionError(f"nobody answers at {address}")
