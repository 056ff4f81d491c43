"""Outcomes that depend on each other: how much is measured as it was drawn, and probabilities stay."""

from __future__ import annotations

import numpy as np
import pytest

from tsa.monitoring import correlation
from tsa.monitoring.correlation import draw_outcomes, fit_shares, renumbered

N, CARDS = 20_000, 2_000


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.6, 0.0), (0.3, 0.5)])
def test_shares_are_measured_as_they_were_drawn(shares: tuple[float, ...], generator: np.random.Generator) -> None:
    probability = np.clip(generator.beta(0.5, 4, N), 0.001, 0.8)
    keys = [generator.integers(0, CARDS, N), generator.integers(-1, CARDS, N)]
    windows = np.zeros(N, np.int64)
    drawn = [draw_outcomes(probability, keys, shares, generator) for _ in range(30)]
    means = np.mean(drawn, axis=1)
    assert np.mean(means) == pytest.approx(probability.mean(), rel=0.03), "probabilities stay"
    fitted = [fit_shares(probability, fraud.astype(float), keys, windows) for fraud in drawn]
    assert np.mean([np.square(one.shares) for one in fitted], axis=0) == pytest.approx(np.square(shares), abs=0.05)
    independent = np.sum(probability * (1 - probability)) / N**2
    effect = np.mean([one.design_effect for one in fitted])
    assert effect == pytest.approx(np.var(means) / independent, rel=0.6)
    assert (effect > 1.3) == any(shares)


def test_sums_over_pairs_are_those_of_loops(generator: np.random.Generator) -> None:
    values, groups = np.round(generator.random(40), 1), generator.integers(0, 6, 40)
    pairs = [(i, j) for i in range(40) for j in range(40) if i != j and groups[i] == groups[j]]
    assert correlation._of_pairs(values, groups) == pytest.approx(sum(values[i] * values[j] for i, j in pairs))
    smaller = sum(min(values[i], values[j]) for i, j in pairs)
    assert correlation._smaller_of_pairs(values, groups) == pytest.approx(smaller)


def test_without_frauds_or_keys_outcomes_are_independent() -> None:
    probability, none = np.full(9, 0.1), np.zeros(9)
    codes = np.array([-1, 7, 7, 3, -1, 3, 3, 0, 9])
    assert fit_shares(probability, none, [codes], np.zeros(9, np.int64)).design_effect == 1
    assert fit_shares(probability, 1 - none, [], np.zeros(9, np.int64)).shares == ()
    assert renumbered(codes).tolist() == [-1, 2, 2, 1, -1, 1, 1, 0, 3]
