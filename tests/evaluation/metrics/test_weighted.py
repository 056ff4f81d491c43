"""Every threshold metric against scikit-learn, with heavy ties and with weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from tsa.evaluation.metrics.bootstrap import observed, weigh_rows
from tsa.evaluation.metrics.ranking import rank
from tsa.evaluation.metrics.weighted import WeightedCounts, measure

RATES = (0.001, 0.01, 0.1, 0.29, 0.5)
PRECISIONS = (0.1, 0.5, 0.9)


@st.composite
def payments(draw):
    """Labels with both classes, scores on a coarse grid, so that most are tied."""
    size = draw(st.integers(2, 60))
    grid = draw(st.sampled_from([1, 2, 5, 1000]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    label = (generator.random(size) < draw(st.sampled_from([0.1, 0.5, 0.9]))).astype(np.int8)
    label[:2] = 0, 1
    score = np.round((generator.normal(size=size) + label) * grid) / grid
    threshold = draw(st.sampled_from([*score.tolist(), 0.3, -10.0, 10.0]))
    weight = generator.integers(0, 4, size).astype(np.int8)
    weight[:2] = np.maximum(weight[:2], 1)
    return label, score, threshold, weight, np.round(generator.lognormal(size=size), 2)


def by_sklearn(label, score, threshold, weight, amount):
    """The same metrics by scikit-learn and by looking at every threshold."""
    fpr, tpr, _ = reference.roc_curve(label, score, sample_weight=weight, drop_intermediate=False)
    precision, recall, _ = reference.precision_recall_curve(label, score, sample_weight=weight)
    flagged = score >= threshold
    options = {"sample_weight": weight, "zero_division": np.nan}
    value = weight * amount * (label == 1)
    within = [
        score >= t
        for t in np.unique(score)
        if (weight * (label == 0))[score >= t].sum() <= 0.01 * (weight * (label == 0)).sum()
    ]
    expected = {
        "roc_auc": reference.roc_auc_score(label, score, sample_weight=weight),
        "average_precision": reference.average_precision_score(label, score, sample_weight=weight),
        "pr_auc": reference.auc(recall, precision),
        "precision": reference.precision_score(label, flagged, **options),
        "recall": reference.recall_score(label, flagged, **options),
        "f1": reference.f1_score(label, flagged, **options),
        "accuracy": reference.accuracy_score(label, flagged, sample_weight=weight),
        "value_weighted_recall": value[flagged].sum() / value.sum(),
        "value_weighted_recall_at_fpr_0.01": max([value[w].sum() / value.sum() for w in within], default=0.0),
    }
    expected |= {f"recall_at_fpr_{rate:g}": tpr[fpr <= rate].max() for rate in RATES}
    # The last point of the curve is scikit-learn's own invention (recall 0, precision 1): it is no threshold.
    reached = {p: recall[:-1][precision[:-1] >= p] for p in PRECISIONS}
    return expected | {f"recall_at_precision_{p:g}": float(r.max()) if len(r) else 0.0 for p, r in reached.items()}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-12, nan_ok=True), name


@settings(max_examples=50, deadline=None)
@given(payments())
def test_equals_scikit_learn_with_heavy_ties(case):
    label, score, threshold, _, amount = case
    found = measure(
        observed(rank(label, score, threshold=threshold, amount=amount)), rates=RATES, precisions=PRECISIONS
    )
    assert_same(found, by_sklearn(label, score, threshold, np.ones(len(label), np.int8), amount))


@settings(max_examples=50, deadline=None)
@given(payments())
def test_a_weighting_equals_scikit_learn_with_sample_weights(case):
    label, score, threshold, weight, amount = case
    ranking = rank(label, score, threshold=threshold, amount=amount, keep_rows=True)
    found = measure(weigh_rows(ranking, weight), rates=RATES, precisions=PRECISIONS)
    assert_same(found, by_sklearn(label, score, threshold, weight, amount))


@settings(max_examples=50, deadline=None)
@given(payments())
def test_order_of_rows_and_monotone_change_of_scores_move_nothing(case):
    label, score, _, _, _ = case
    order = np.random.default_rng(0).permutation(len(label))
    plain = measure(observed(rank(label, score, threshold=0.0)), rates=RATES)
    changed = measure(observed(rank(label[order], np.exp(score[order]), threshold=1.0)), rates=RATES)
    for name, value in plain.items():
        np.testing.assert_allclose(value, changed[name], rtol=1e-12, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(payments())
def test_turning_scores_round_turns_the_auc_round(case):
    label, score, _, _, _ = case
    auc, turned = (measure(observed(rank(label, s, threshold=0.0)))["roc_auc"][0] for s in (score, -score))
    assert auc + turned == pytest.approx(1.0)


def test_many_weightings_at_once_equal_one_at_a_time():
    generator = np.random.default_rng(3)
    fraud, genuine = generator.integers(0, 3, (5, 7)), generator.integers(0, 9, (5, 15))
    value = fraud * generator.random(7)
    together = measure(
        WeightedCounts(fraud=fraud, genuine=genuine, value=value, cut=3), rates=RATES, precisions=PRECISIONS
    )
    for row in range(5):
        one = slice(row, row + 1)
        alone = WeightedCounts(fraud=fraud[one], genuine=genuine[one], value=value[one], cut=3)
        for name, found in measure(alone, rates=RATES, precisions=PRECISIONS).items():
            np.testing.assert_array_equal(found[0], together[name][row])


def test_float32_scores_and_a_threshold_that_is_a_score():
    label = np.array([0, 1, 0, 1], dtype=np.int8)
    score = np.array([0.1, 0.2, 0.2, 0.9], dtype=np.float32)
    found = measure(observed(rank(label, score, threshold=float(np.float32(0.2)))))
    assert found["precision"][0] == pytest.approx(2 / 3)
    assert found["recall"][0] == 1.0
