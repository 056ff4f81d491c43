"""Which epoch is the best, which weights are kept, and when to stop: on any metric, either way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss, precision_score, recall_score

from tsa.errors import ConfigError
from tsa.training import TrainingConfig
from tsa.training.config import METRICS
from tsa.training.early_stopping import EarlyStopping
from tsa.training.validation import validation_metrics


def trained(values: list[float], **changes: Any) -> EarlyStopping:
    """As a run goes whose epochs come to these values."""
    config = TrainingConfig.make({"epochs": len(values), **changes})
    history = EarlyStopping()
    for value in values:
        if history.should_continue(config):
            history.add({config.monitor: value}, config)
    return history


@pytest.mark.parametrize(
    ("changes", "values", "best", "epochs"),
    [
        ({"patience": 2}, [0.1, 0.3, 0.2, 0.3, 0.9], 2, 4),
        ({"patience": 3}, [0.1, 0.3, 0.2, 0.3, 0.9], 5, 5),
        ({"patience": 2, "monitor": "validation_loss"}, [0.5, 0.3, 0.4, 0.35, 0.1], 2, 4),
        ({"patience": 2, "monitor": "loss", "monitor_mode": "max"}, [0.5, 0.3, 0.4, 0.9], 1, 3),
        ({"patience": 2, "monitor": "validation_roc_auc", "monitor_mode": "min"}, [0.5, 0.6, 0.4, 0.9], 3, 4),
        ({"patience": 2, "min_delta": 0.05}, [0.5, 0.54, 0.549, 0.9], 1, 3),
        ({"patience": 2, "min_delta": 0.05}, [0.5, 0.54, 0.56, 0.9], 4, 4),
        ({"early_stopping": False}, [0.9, 0.1, 0.2], 3, 3),
        ({"patience": 1}, [0.0, 0.0, 1.0], 1, 2),
    ],
)
def test_the_best_epoch_and_the_last(changes: dict[str, Any], values: list[float], best: int, epochs: int) -> None:
    history = trained(values, **changes)
    assert (history.best_epoch, len(history.epochs)) == (best, epochs)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 4), st.booleans())
def test_the_best_are_kept(values: list[int], keep: int, lower: bool) -> None:
    metric = "validation_loss" if lower else "validation_average_precision"
    config = {"save_top_k": keep, "monitor": metric, "patience": 100}
    found = trained([float(value) for value in values], **config).best_epochs(TrainingConfig.make(config))
    order = sorted(range(len(values)), key=lambda at: values[at] if lower else -values[at])
    assert found == [at + 1 for at in order[:keep]]


def test_the_best_is_kept_whatever_the_least_gain() -> None:
    config = {"min_delta": 0.1, "save_top_k": 2, "patience": 9}
    history = trained([0.5, 0.55, 0.58], **config)
    assert history.best_epochs(TrainingConfig.make(config)) == [1, 3]


def test_it_goes_on_from_its_state() -> None:
    history, other = trained([0.1, 0.3, 0.2]), EarlyStopping()
    other.load_state_dict(history.state_dict())
    assert (other.epochs, other.best_epoch) == (history.epochs, 2)


def test_an_unknown_metric() -> None:
    with pytest.raises(ConfigError, match=r"training: monitor must be one of .*validation_roc_auc.* monitor='auc'"):
        TrainingConfig.make({"monitor": "auc"})


def test_measures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(500) < 0.2).astype(np.int8)
    score = np.clip(0.4 * label + rng.random(500) * 0.7, 0, 1).astype(np.float32)
    found = validation_metrics(label, score)
    assert {f"{name}" for name in found} | {"loss"} == set(METRICS)
    flagged = score >= 0.5
    assert found["validation_loss"] == pytest.approx(log_loss(label, score.astype(np.float64)), rel=1e-6)
    assert found["validation_precision"] == pytest.approx(precision_score(label, flagged))
    assert found["validation_recall"] == pytest.approx(recall_score(label, flagged))
    assert found["validation_f1"] == pytest.approx(f1_score(label, flagged))
    assert found["validation_accuracy"] == pytest.approx((flagged == label).mean())
    nothing = validation_metrics(label, np.zeros(500, np.float32))
    assert (nothing["validation_precision"], nothing["validation_f1"]) == (0.0, 0.0)
    assert np.isfinite(list(nothing.values())).all()
