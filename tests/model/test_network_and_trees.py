from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from tsa.errors import ModelError
from tsa.model.network_and_trees import ALONE, MEAN, Joining, fit_joining, raw_scores


def drawn(n: int = 20_000, own: tuple[float, float] = (1.0, 0.5)) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Log odds of two parts, and outcomes drawn with log odds of -3 + Σ own · part."""
    rng = np.random.default_rng(0)
    parts = {"network": rng.normal(size=n), "trees": 2.0 * rng.normal(size=n)}
    label = rng.random(n) < expit(-3.0 + own[0] * parts["network"] + own[1] * parts["trees"])
    return parts, label.astype(np.int8)


def test_weights_that_outcomes_were_drawn_with_are_recovered():
    joining = fit_joining(*drawn())
    assert joining.network == pytest.approx(1.0, abs=0.1)
    assert joining.trees == pytest.approx(0.5, abs=0.05)
    assert joining.intercept == pytest.approx(-3.0, abs=0.1)
    assert joining.parts == ("network", "trees")


def test_a_part_that_says_nothing_or_the_opposite_gets_little_or_no_weight():
    assert fit_joining(*drawn(own=(1.0, 0.0))).trees == pytest.approx(0.0, abs=0.03)
    against = fit_joining(*drawn(own=(1.0, -0.5)))
    assert against.trees == 0.0
    assert against.parts == ("network",)


def test_parts_that_say_the_same_share_the_weight():
    parts, label = drawn(own=(1.0, 0.0))
    joining = fit_joining({"network": parts["network"], "trees": parts["network"].copy()}, label)
    assert joining.network == pytest.approx(joining.trees, rel=1e-3)


def test_few_payments_leave_the_weights_nearly_equal():
    parts, label = drawn(100, own=(1.0, 0.0))
    joining = fit_joining(parts, label, penalty=100.0)
    assert joining.network == pytest.approx(joining.trees, abs=0.1)
    assert joining.trees > 0.1


def test_few_frauds_are_heard():
    """The penalty is less where there are few, and the same as always where there are many."""
    few, many = drawn(1000, own=(1.0, 0.0)), drawn(own=(1.0, 0.0))
    assert 20 < few[1].sum() < 100
    free, default, fixed = (fit_joining(*few, **settings) for settings in ({"penalty": 0.0}, {}, {"penalty": 100.0}))
    assert free.trees < default.trees < fixed.trees - 0.05
    assert fit_joining(*many) == fit_joining(*many, penalty=100.0)


def test_joined_log_odds_do_not_depend_on_the_batch():
    parts, _ = drawn(1000)
    joining = Joining(network=0.3, trees=0.7, intercept=-1.0)
    together = joining({name: values.astype(np.float32) for name, values in parts.items()})
    assert together.dtype == np.float64
    alone = [
        joining({name: values[at : at + 1].astype(np.float32) for name, values in parts.items()}) for at in range(9)
    ]
    assert np.array_equal(np.concatenate(alone), together[:9])
    assert raw_scores(together).dtype == np.float32


def test_only_the_parts_that_count_are_needed():
    values = np.array([1.0, -2.0])
    assert np.array_equal(ALONE["trees"]({"trees": values}), values)
    assert np.array_equal(ALONE["network"]({"network": values}), values)
    assert np.array_equal(MEAN({"network": values, "trees": values}), values)


def test_weights_go_through_plain_values():
    joining = Joining(network=0.3, trees=0.7, intercept=-1.0)
    assert Joining.from_dict(joining.to_dict()) == joining
    for wrong in ({}, {"network": "x", "trees": 1, "intercept": 0}, {"network": -1, "trees": 1, "intercept": 0}):
        with pytest.raises(ModelError):
            Joining.from_dict(wrong)
    for weights in ((0.0, 0.0), (float("inf"), 1.0)):
        with pytest.raises(ModelError):
            Joining(network=weights[0], trees=weights[1])


def test_payments_of_one_outcome_alone_are_refused():
    parts, label = drawn(100)
    with pytest.raises(ModelError, match="payments of both outcomes"):
        fit_joining(parts, np.zeros_like(label))
    with pytest.raises(ModelError, match="scores that differ"):
        fit_joining({**parts, "trees": np.zeros(100)}, np.arange(100) % 2)
