from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.evaluation.baseline.lightgbm import GRID, SHORT, BaselineResult, compare
from tsa.simulation import SimulationConfig, write_simulation

DEMO = Path(__file__).parents[3] / "markets" / "demo.toml"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    folder = tmp_path_factory.mktemp("compare")
    log = folder / "log.parquet"
    write_simulation(SimulationConfig(payments=5000, fraud_rate=0.05, seed=3), log)
    return prepare(Market.load(DEMO), [str(log)], folder / "store")


def _compare(store: EventStore, **changes: Any) -> BaselineResult:
    rows = {f"rows_{name}": store.labelled(name) for name in ("train", "validation", "test")}
    return compare(store, **{**rows, "seed": 0, "max_rounds": 30, "threads": 1, "grid": GRID[:1], **changes})


def test_the_baseline_finds_fraud_in_a_real_store_and_says_how(store: EventStore) -> None:
    result = _compare(store, grid=GRID[:2])
    test = store.labelled("test")
    assert result.scores.shape == test.shape
    assert result.scores.dtype == np.float64
    assert ((result.scores > 0) & (result.scores < 1)).all()
    assert roc_auc_score(store.label[test], result.scores) > 0.75
    assert sum(result.feature_importance.values()) == pytest.approx(1)
    assert list(result.feature_importance.values()) == sorted(result.feature_importance.values(), reverse=True)
    assert {"device", "customer/categorical/device/count_all", "customer/number/amount/mean_7d"} <= set(
        result.feature_importance
    )
    assert len(result.validation_average_precision) == 2
    best = int(np.argmax(result.validation_average_precision))
    assert result.params.items() >= GRID[best].items()
    assert result.n_train == len(store.labelled("train"))
    assert result.negative_rate == 1
    assert "every training payment" in result.note


def test_the_same_seed_gives_the_same_scores(store: EventStore) -> None:
    assert np.array_equal(_compare(store).scores, _compare(store, threads=2).scores)


def test_test_rows_may_come_in_any_order_and_repeat_others(store: EventStore) -> None:
    valid, test = store.labelled("validation"), store.labelled("test")
    both = _compare(store, rows_test=np.concatenate([test[::-1], valid]))
    assert np.array_equal(both.scores[: len(test)][::-1], _compare(store).scores)


def test_many_rows_are_sampled_keeping_fraud_and_corrected(store: EventStore) -> None:
    train = store.labelled("train")
    frauds = int(store.label[train].sum())
    result = _compare(store, max_training_rows=1000)
    assert result.n_train == 1000
    assert result.negative_rate == pytest.approx((1000 - frauds) / (len(train) - frauds))
    assert f"{result.negative_rate:.1%} sample of the genuine ones" in result.note
    assert result.scores.mean() == pytest.approx(_compare(store).scores.mean(), rel=0.5)


def test_rows_without_an_outcome_or_without_fraud_are_refused(store: EventStore) -> None:
    train = store.labelled("train")
    genuine = train[store.label[train] == 0]
    with pytest.raises(DataError, match=r"validation rows must contain fraud and genuine payments [(]got 0 of"):
        _compare(store, rows_validation=genuine)
    label = np.array(store.label)
    label[train[0]] = -1
    with pytest.raises(DataError, match=rf"training rows must be labelled 0 or 1 [(]got 1 of {len(train)}"):
        _compare(replace(store, label=label), rows_train=train)
    with pytest.raises(ConfigError, match="grid must contain at least one setting"):
        _compare(store, grid=())


def test_without_lightgbm_it_says_what_to_install(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match="pip install lightgbm"):
        _compare(store)


def test_a_limit_of_time_ends_training_with_what_there_is(demo_store: EventStore) -> None:
    rows = {f"rows_{name}": demo_store.labelled(name) for name in ("train", "validation", "test")}
    result = compare(demo_store, **rows, seed=0, seconds=0.0)
    assert result.note.endswith(SHORT)
    assert result.params["num_boost_round"] == 1
    assert np.isfinite(result.scores).all()
