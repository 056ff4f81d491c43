"""Both parts together, unless one alone is better beyond chance; the same choice each time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit

from tsa.model.network_and_trees import ALONE, MEAN
from tsa.training.parts import choose_parts
from tsa.training.parts.choose_parts import choose_form, describe


def drawn(network: float, trees: float, n: int = 4000) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Log odds of two parts that see so much of what decides the outcome, each with its own errors."""
    rng = np.random.default_rng(3)
    truth = 2.0 * rng.normal(size=n)
    label = (rng.random(n) < expit(truth - 3.0)).astype(np.int8)
    parts = {
        name: seen * truth + np.sqrt(max(0.0, 1 - seen**2)) * 2.0 * rng.normal(size=n)
        for name, seen in (("network", network), ("trees", trees))
    }
    return parts, label


def test_two_good_parts_are_joined():
    parts, label = drawn(0.8, 0.8)
    choice = choose_form("auto", parts, label)
    assert choice.form == "combined"
    precision = choice.measured["average_precision"]
    assert precision["combined"] > max(precision["network"], precision["trees"])
    assert all(values["low"] < 0 for values in choice.measured["differences"].values())
    assert describe(choice).startswith("combined (average precision: network 0.")
    json.dumps(choice.to_dict(), allow_nan=False)


@pytest.mark.parametrize("better", ["network", "trees"])
def test_the_model_follows_a_part_that_is_much_better(better: str):
    parts, label = drawn(0.95, 0.95)
    other = "trees" if better == "network" else "network"
    parts[other] = np.where(np.random.default_rng(0).random(len(label)) < 0.02, 60.0, parts[other])
    choice = choose_form("auto", parts, label)
    assert getattr(choice.joining, other) < 0.05 * getattr(choice.joining, better)
    precision = choice.measured["average_precision"]
    assert precision["combined"] > precision[better] - 0.005 > precision[other]


@pytest.mark.parametrize("better", ["network", "trees"])
def test_a_part_is_used_alone_where_the_other_only_harms(better: str, monkeypatch: pytest.MonkeyPatch):
    parts, label = drawn(0.95, 0.95)
    other = "trees" if better == "network" else "network"
    parts[other] = np.where(np.random.default_rng(0).random(len(label)) < 0.02, 60.0, parts[other])
    monkeypatch.setattr(choose_parts, "fit_joining", lambda *_: MEAN)
    choice = choose_form("auto", parts, label)
    assert (choice.form, choice.joining) == (better, ALONE[better])
    assert choice.measured["differences"][better]["low"] > 0


def test_the_same_each_time_and_as_set():
    parts, label = drawn(0.8, 0.6)
    assert choose_form("auto", parts, label, seed=5).to_dict() == choose_form("auto", parts, label, seed=5).to_dict()
    for form, joining in ALONE.items():
        assert choose_form(form, parts, label).joining == joining
    assert choose_form("combined", parts, label).form == "combined"


def test_little_to_compare_on_gives_the_mean():
    parts, label = drawn(0.8, 0.8, 60)
    choice = choose_form("auto", parts, np.zeros_like(label))
    assert choice.joining == MEAN
    assert "fewer than" in choice.measured["reason"]


def test_parts_that_cannot_be_weighted_give_the_mean():
    parts, label = drawn(0.8, 0.8)
    choice = choose_form("auto", {**parts, "trees": np.zeros(len(label))}, label)
    assert choice.joining == MEAN
    assert "scores that differ" in choice.measured["reason"]
