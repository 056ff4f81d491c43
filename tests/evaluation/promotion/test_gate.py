"""The gate: the same payments for both models, every rule with value and limit, and what is not known does not pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tsa.bundle.bundle import Bundle
from tsa.bundle.decisions import Decision, DecisionPolicy
from tsa.config.market import Market
from tsa.config.promotion import Promotion
from tsa.errors import ConfigError, MarketError
from tsa.evaluation.promotion.gate import apply_gate, gate_sentence
from tsa.evaluation.promotion.pair import Pair, measure_pair, refuse_other_payments
from tsa.evaluation.trained_run import TrainedRun
from tsa.inference.scorer import Scorer
from tsa.retraining.page import view

ALL = {
    "min_difference_low": -0.001,
    "max_segment_drop": 0.0,
    "min_segment_frauds": 1,
    "max_score_psi": 0.01,
    "max_latency_ms": 1e6,
    "max_latency_ratio": 1e6,
    "max_changed_decisions": 0.0,
    "min_frauds": 1,
}


@pytest.fixture(scope="module")
def pair(demo_run: Path) -> Pair:
    """A run and its own bundle as the champion, both with decisions."""
    run = TrainedRun.open(demo_run)
    policy = DecisionPolicy(score="raw_score", decisions=(Decision("review", 0.5),))
    bundle = replace(Bundle.open(demo_run / "bundle"), thresholds=policy)
    run = replace(run, scorer=Scorer(bundle))
    return measure_pair(run, bundle, run.score(run.rows, "scoring").astype(np.float64))


def test_both_models_score_the_same_payments(pair: Pair) -> None:
    assert pair.champion is not None
    np.testing.assert_array_equal(pair.champion.raw, pair.candidate.raw)  # by way of the champion's encoder


def test_an_equal_model_passes_every_rule(pair: Pair) -> None:
    gate = apply_gate(pair, Promotion(**ALL), replicates=20)
    assert gate["passed"], gate_sentence(gate)
    names = {rule["name"].split(":")[0] for rule in gate["rules"]}
    assert names >= {"frauds", "difference", "difference_low", "latency_ms", "latency_ratio"}
    assert names >= {"score_psi", "changed_decisions"}
    assert all(isinstance(rule["passed"], bool) for rule in gate["rules"])
    json.dumps(gate, allow_nan=False)
    assert view("demo", gate)["tone"] == "better"


def test_a_worse_model_fails_by_name(pair: Pair) -> None:
    mixed = np.random.default_rng(0).permutation(pair.candidate.raw)
    worse = replace(pair, candidate=replace(pair.candidate, raw=mixed))
    gate = apply_gate(worse, Promotion(**ALL), replicates=20)
    failed = {rule["name"] for rule in gate["rules"] if not rule["passed"]}
    assert {"difference", "difference_low", "changed_decisions"} <= failed
    assert "does not pass the gate: difference of average precision" in gate_sentence(gate)
    limited = apply_gate(worse, Promotion(min_difference=-1.0, min_frauds=1), replicates=0)
    assert limited["passed"]
    assert len(limited["rules"]) == 2


def test_what_is_not_known_does_not_pass(pair: Pair) -> None:
    assert pair.champion is not None
    bare = replace(pair.champion, scorer=Scorer(replace(pair.champion.scorer.bundle, thresholds=None)))
    rules = Promotion(max_changed_decisions=0.5, min_frauds=10**6, min_difference_low=-1, max_calibration_error=1)
    gate = apply_gate(replace(pair, champion=bare), rules, replicates=0)
    failed = {rule["name"]: rule for rule in gate["rules"] if not rule["passed"]}
    assert set(failed) == {"frauds", "difference_low", "calibration_error", "changed_decisions"}
    assert failed["changed_decisions"]["note"] == "one of the bundles has no decisions"


def test_the_first_model_has_no_champion(pair: Pair) -> None:
    gate = apply_gate(replace(pair, champion=None), Promotion(**ALL), replicates=20)
    assert gate["champion"] is None
    assert {rule["name"] for rule in gate["rules"]} == {"frauds", "latency_ms"}
    assert len(view("demo", gate)["sides"]) == 1


def test_a_champion_of_other_payments_is_refused(pair: Pair) -> None:
    market = pair.run.store.market
    other = market.override(["label.delay_days=99", "split.fractions=[0.7,0.1,0.1,0.1]"])
    with pytest.raises(ConfigError, match=r"label\.delay_days"):
        refuse_other_payments(pair.run.store, other)
    refuse_other_payments(pair.run.store, market.override(["trees.history_length=40"]))


def test_segments_must_be_columns(demo_market: Path) -> None:
    market = Market.load(demo_market)
    with pytest.raises(MarketError, match=r"promotion\.segments"):
        market.override(['promotion.segments=["nothing"]'])
    changed = market.override(["promotion.min_frauds=3"])
    assert changed.fingerprint == market.fingerprint
