"""The bootstrap of cells against one that touches every payment, and the comparison of two scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tsa.errors import ConfigError, DataError
from tsa.evaluation.metrics.bootstrap import cluster_codes, interval, poisson_one, resample
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.metrics.ranking import rank
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.evaluation.metrics.weighted import measure


def sample(size=3000, seed=0, rate=0.05):
    generator = np.random.default_rng(seed)
    label = (generator.random(size) < rate).astype(np.int8)
    score = np.round(generator.normal(size=size) + 1.2 * label, 1)
    return label, score, generator.lognormal(size=size)


def test_poisson_table_has_the_moments_of_poisson():
    drawn = poisson_one(np.random.default_rng(0), 1_000_000)
    assert drawn.dtype == np.int8
    assert drawn.mean() == pytest.approx(1.0, abs=0.004)
    assert drawn.var() == pytest.approx(1.0, abs=0.008)
    assert np.mean(drawn == 0) == pytest.approx(np.exp(-1), abs=0.002)


def test_cells_spread_like_a_naive_bootstrap_of_rows():
    label, score, amount = sample()
    ranking = rank(label, score, threshold=1.5, amount=amount)
    blocks = [measure(w, rates=(0.01,)) for w in resample(ranking, np.random.default_rng(1), 800)]
    samples = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    generator = np.random.default_rng(2)
    naive = {"roc_auc": [], "average_precision": [], "recall": [], "value_weighted_recall": []}
    for _ in range(250):
        rows = generator.integers(0, len(label), len(label))
        y, s, value = label[rows], score[rows], amount[rows] * label[rows]
        naive["roc_auc"].append(roc_auc_score(y, s))
        naive["average_precision"].append(average_precision_score(y, s))
        naive["recall"].append(np.mean(s[y == 1] >= 1.5))
        naive["value_weighted_recall"].append(value[s >= 1.5].sum() / value.sum())
    for name, values in naive.items():
        assert samples[name].mean() == pytest.approx(np.mean(values), abs=5 * np.std(values) / np.sqrt(250)), name
        assert samples[name].std() == pytest.approx(np.std(values), rel=0.2), name


def test_entities_that_pay_once_spread_like_payments():
    label, score, _ = sample()
    spread = []
    for clusters in (None, np.arange(len(label))):
        ranking = rank(label, score, threshold=1.5, keep_rows=True)
        drawn = resample(ranking, np.random.default_rng(1), 400, clusters=clusters)
        spread.append(np.std([v for w in drawn for v in measure(w)["average_precision"]]))
    assert spread[1] == pytest.approx(spread[0], rel=0.2)


def test_entities_that_repeat_themselves_spread_more():
    label, score, _ = sample(500)
    label, score = np.repeat(label, 9), np.repeat(score, 9)
    ranking = rank(label, score, threshold=1.5, keep_rows=True)
    spread = [
        np.std([v for w in resample(ranking, np.random.default_rng(1), 200, clusters=c) for v in measure(w)["recall"]])
        for c in (None, np.arange(len(label)) // 9)
    ]
    assert spread[1] / spread[0] == pytest.approx(3.0, rel=0.25)


def test_cluster_codes_are_dense_and_nobody_is_alone():
    codes = cluster_codes(np.array([7, -1, 3, 7, -1]))
    assert codes[0] == codes[3]
    assert sorted(set(codes.tolist())) == [0, 1, 2, 3]
    assert cluster_codes(np.array([-1, -1])).tolist() == [0, 1]
    assert cluster_codes(np.zeros(0, dtype=np.int64)).tolist() == []
    with pytest.raises(DataError, match="needs an entity"):
        cluster_codes(None)


def test_interval_leaves_out_nan_and_holds_the_value():
    samples = np.append(np.linspace(0, 1, 101), np.nan)
    assert interval(samples, 0.9, 0.5) == pytest.approx((0.05, 0.95))
    assert interval(samples, 0.9, 2.0) == pytest.approx((0.05, 2.0))


def pair(size=4000, gap=0.0, rate=0.05):
    label, _, _ = sample(size, rate=rate)
    generator = np.random.default_rng(8)
    shared = generator.normal(size=size) + 1.5 * label
    a, b = (shared + generator.normal(size=size) * noise for noise in (0.3, 0.3 + gap))
    time = np.arange(size, dtype=np.float64)
    return a, b, ScoredPayments(label=label, score=a, time_seconds=time, entity=np.arange(size) // 3)


@pytest.mark.parametrize("resample", ["payments", "entities"])
def test_the_better_score_is_named_and_a_tie_is_not(resample):
    a, b, payments = pair(gap=1.0)
    for name, reference in (("average_precision", average_precision_score), ("roc_auc", roc_auc_score)):
        ahead = paired_difference(a, b, payments, resample=resample)[name]
        assert ahead["verdict"] == "a better"
        assert 0 < ahead["low"] <= ahead["difference"] <= ahead["high"]
        assert ahead["difference"] == pytest.approx(reference(payments.label, a) - reference(payments.label, b))
        behind = paired_difference(b, a, payments, resample=resample)[name]
        assert behind["verdict"] == "b better"
        assert (behind["low"], behind["high"]) == pytest.approx((-ahead["high"], -ahead["low"]))
        assert paired_difference(a, a, payments, resample=resample)[name]["verdict"] == "no clear difference"


def test_pairing_narrows_the_interval():
    a, b, payments = pair(gap=0.05)
    found = paired_difference(a, b, payments)["average_precision"]
    ranking = rank(payments.label, a, threshold=0.0)
    alone = np.std(
        [v for w in resample(ranking, np.random.default_rng(1), 200) for v in measure(w)["average_precision"]]
    )
    assert found["high"] - found["low"] < 2 * 1.96 * alone


def test_paired_difference_repeats_by_seed():
    a, b, payments = pair()
    assert paired_difference(a, b, payments, seed=4) == paired_difference(a, b, payments, seed=4)
    assert paired_difference(a, b, payments, seed=4) != paired_difference(a, b, payments, seed=5)


def test_too_few_frauds_give_no_verdict():
    a, b, payments = pair(size=60, gap=2.0, rate=0.05)
    assert 0 < payments.label.sum() < 10
    found = paired_difference(a, b, payments)["roc_auc"]
    assert found["verdict"] == "no clear difference"
    assert found["low"] is None
    assert "below 10" in found["reason"]
    none = ScoredPayments(label=payments.label * 0, score=a, time_seconds=payments.time_seconds)
    assert paired_difference(a, b, none)["roc_auc"]["difference"] is None


def test_refuses_scores_of_other_payments():
    a, b, payments = pair(size=60)
    with pytest.raises(DataError, match="b must contain one finite score per payment"):
        paired_difference(a, b[1:], payments)
    with pytest.raises(ConfigError, match="confidence=2"):
        paired_difference(a, b, payments, confidence=2)
