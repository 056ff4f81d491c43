"""evaluate_scores as a whole: its form, its parts, what is undefined, and that it repeats."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.errors import ConfigError, DataError
from tsa.evaluation.metrics.evaluate_scores import ScoredPayments, card_precision_at_k, evaluate_scores

DAY = 86_400


def payments(size=4000, seed=0, rate=0.05, **changes):
    generator = np.random.default_rng(seed)
    label = (generator.random(size) < rate).astype(np.int8)
    values = {
        "label": label,
        "score": 1 / (1 + np.exp(2 - generator.normal(size=size) - 1.5 * label)),
        "time_seconds": 1.5e9 + np.sort(generator.random(size)) * 5 * DAY,
        "amount": generator.lognormal(size=size),
        "entity": generator.integers(0, 400, size),
        "segments": {"country": np.array(["DE", "FR", "IT"])[generator.integers(0, 3, size)]},
        "history_length": {"card": generator.geometric(0.05, size)},
    }
    return ScoredPayments(**(values | changes))


def every_metric(result):
    yield from result["metrics"].items()
    for parts in (*result["segments"].values(), *result["history_length"].values()):
        for part in parts:
            yield from part["metrics"].items()


def test_form():
    scored = payments()
    result = evaluate_scores(scored, threshold=0.4, top_k=20)
    json.dumps(result, allow_nan=False)
    assert (result["n"], result["frauds"]) == (4000, int(scored.label.sum()))
    assert result["fraud_rate"] == pytest.approx(scored.label.mean())
    names = {"roc_auc", "average_precision", "pr_auc", "precision", "recall", "f1", "accuracy", "precision_at_k"}
    names |= {f"recall_at_fpr_{rate}" for rate in ("0.001", "0.005", "0.01", "0.05")}
    names |= {f"recall_at_precision_{p}" for p in ("0.5", "0.8", "0.9")}
    names |= {"value_weighted_recall", "value_weighted_recall_at_fpr_0.01"}
    assert set(result["metrics"]) == names
    for _, metric in every_metric(result):
        if metric["low"] is not None:
            assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    assert {p["value"] for p in result["segments"]["country"]} == {"DE", "FR", "IT"}
    assert [p["value"] for p in result["history_length"]["card"]] == ["1", "2-5", "6-20", "21-50", "51+"]


def test_confusion_and_operating_thresholds():
    scored = payments()
    result = evaluate_scores(scored, threshold=0.4, replicates=0)
    flagged, fraud = scored.score >= 0.4, scored.label == 1
    assert result["confusion"] == {
        "true_positives": int((flagged & fraud).sum()),
        "false_positives": int((flagged & ~fraud).sum()),
        "false_negatives": int((~flagged & fraud).sum()),
        "true_negatives": int((~flagged & ~fraud).sum()),
    }
    at_rate = result["metrics"]["recall_at_fpr_0.01"]
    assert at_rate["low"] is None
    assert at_rate["reason"] == "no replicates"
    assert np.mean(scored.score[~fraud] >= at_rate["threshold"]) <= 0.01
    assert np.mean(scored.score[fraud] >= at_rate["threshold"]) == pytest.approx(at_rate["value"])


def test_precision_at_k_is_by_utc_day():
    scored = payments()
    result = evaluate_scores(scored, threshold=0.4, top_k=20)["metrics"]["precision_at_k"]
    day = (scored.time_seconds // DAY).astype(int)
    mean, per_day = card_precision_at_k(day, scored.entity, scored.score, scored.label, 20)
    assert result["value"] == pytest.approx(mean)
    assert [d["precision"] for d in result["per_day"]] == per_day.tolist()
    assert result["per_day"][0]["day"] == "2017-07-14"


def test_a_part_measures_like_its_payments_alone():
    scored = payments()
    result = evaluate_scores(scored, threshold=0.4, replicates=0)
    for part in result["segments"]["country"]:
        rows = scored.segments["country"] == part["value"]
        columns = ("label", "score", "time_seconds", "amount", "entity")
        alone = ScoredPayments(**{name: getattr(scored, name)[rows] for name in columns})
        expected = evaluate_scores(alone, threshold=0.4, replicates=0)["metrics"]
        assert part["n"] == rows.sum()
        assert part["metrics"] == {name: expected[name] for name in part["metrics"]}


def test_many_values_are_gathered_as_other_and_missing_is_none():
    generator = np.random.default_rng(1)
    values = np.array([f"c{min(v, 40)}" if v else None for v in generator.geometric(0.08, 4000) - 1], dtype=object)
    parts = evaluate_scores(payments(segments={"c": values}), threshold=0.4, replicates=0)["segments"]["c"]
    assert len(parts) == 21
    assert parts[-1]["value"] == "other"
    assert parts[-1]["rest"] == 41 - 20
    assert parts[0]["value"] is None
    assert [p["n"] for p in parts[:-1]] == sorted((p["n"] for p in parts[:-1]), reverse=True)
    assert sum(p["n"] for p in parts) == 4000


@pytest.mark.parametrize("resample", ["payments", "entities"])
def test_repeats_by_seed(resample):
    first, again, other = (
        evaluate_scores(payments(1000), threshold=0.4, seed=seed, replicates=20, resample=resample)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first["metrics"]["roc_auc"] != other["metrics"]["roc_auc"]


def test_a_part_moves_no_other_interval():
    whole, less = payments(1000), payments(1000, segments={}, history_length={})
    results = [evaluate_scores(p, threshold=0.4, replicates=20)["metrics"] for p in (whole, less)]
    assert results[0] == results[1]


def test_intervals_cover_the_truth():
    truth, hits = None, 0
    big = evaluate_scores(payments(400_000, seed=99), threshold=0.4, replicates=0)
    truth = big["metrics"]["average_precision"]["value"]
    for seed in range(60):
        found = evaluate_scores(
            payments(1500, seed=seed, segments={}, history_length={}, entity=None), threshold=0.4, replicates=100
        )["metrics"]["average_precision"]
        hits += found["low"] <= truth <= found["high"]
    assert hits >= 50


@pytest.mark.parametrize("resample", ["payments", "entities"])
@pytest.mark.parametrize(("size", "kind"), [(0, None), (30, 0), (30, 1)])
def test_undefined_is_null_with_a_reason(size, kind, resample):
    scored = payments(size)
    if kind is not None:
        scored = payments(size, label=np.full(size, kind, dtype=np.int8))
    result = evaluate_scores(scored, threshold=2.0, replicates=20, resample=resample)
    json.dumps(result, allow_nan=False)
    for _, metric in every_metric(result):
        assert metric["low"] is not None or metric["reason"]
    missing = {0: "no fraud", 1: "no genuine payment", None: "no fraud"}[kind]
    for name in ("roc_auc", "recall_at_fpr_0.01"):
        metric = result["metrics"][name]
        assert metric["value"] is None
        assert metric["reason"] == missing
    assert result["metrics"]["precision"]["reason"] == "no payment at or above the threshold"
    assert (result["metrics"]["accuracy"]["value"] is None) == (size == 0)


def test_few_frauds_get_no_interval():
    label = np.zeros(100, dtype=np.int8)
    label[:3] = 1
    result = evaluate_scores(payments(100, label=label), threshold=0.4)
    assert result["metrics"]["recall"]["low"] is None
    assert result["metrics"]["recall"]["reason"] == "3 frauds: no interval below 10"


def test_without_amount_or_entity():
    metrics = evaluate_scores(payments(200, amount=None, entity=None), threshold=0.4)["metrics"]
    assert metrics["value_weighted_recall"]["reason"] == "no fraud with an amount"
    assert metrics["precision_at_k"]["reason"] == "no entity given"


def test_missing_and_negative_amounts_weigh_nothing():
    scored = payments(200)
    amount = scored.amount.copy()
    amount[::3], amount[1::3] = np.nan, -5.0
    counted = np.where(np.nan_to_num(amount) > 0, amount, 0.0) * scored.label
    found = evaluate_scores(payments(200, amount=amount), threshold=0.3)["metrics"]["value_weighted_recall"]["value"]
    assert found == pytest.approx(counted[scored.score >= 0.3].sum() / counted.sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 50, 500]), st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.booleans())
def test_always_json_and_in_bounds(seed, size, rate, tied):
    generator = np.random.default_rng(seed)
    score = np.round(generator.normal(size=size), 0 if tied else 6)
    scored = payments(size, seed=seed, rate=rate, score=score)
    result = evaluate_scores(scored, threshold=float(score[0]), replicates=5, seed=seed)
    json.dumps(result, allow_nan=False)
    assert sum(result["confusion"].values()) == size
    for name, curve in result["curves"].items():
        for values in (curve or {}).values():
            assert len(values) <= 400
            if name != "score_histogram":
                assert min(values) >= 0
                assert max(values) <= 1
    for parts in (*result["segments"].values(), *result["history_length"].values()):
        assert sum(part["n"] for part in parts) == size


def test_curves_hold_their_area():
    scored = payments(50_000)
    result = evaluate_scores(scored, threshold=0.4, replicates=0)
    roc, pr, histogram = (result["curves"][name] for name in ("roc", "pr", "score_histogram"))
    assert max(len(roc["recall"]), len(pr["recall"])) <= 400
    area = np.trapezoid(roc["recall"], roc["false_positive_rate"])
    assert area == pytest.approx(result["metrics"]["roc_auc"]["value"], abs=2e-3)
    area = np.trapezoid(pr["precision"], pr["recall"])
    assert area == pytest.approx(result["metrics"]["average_precision"]["value"], abs=5e-3)
    assert sum(histogram["genuine"]) + sum(histogram["fraud"]) == 50_000
    assert (histogram["edges"][0], histogram["edges"][-1]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.array([0, 2, 1])}, r"label must be 0 \(genuine\) or 1 \(fraud\) [(]got label\[1\]=2 \(1 of 3"),
        ({"score": np.array([0.1, 0.2, np.nan])}, r"score must be finite [(]got score\[2\]=nan"),
        ({"score": np.zeros(2)}, r"score must have one value per label [(]got shape=\(2,\)"),
        ({"entity": np.array([0, -2, 1])}, r"entity must be a code >= 0, or -1 for none [(]got entity\[1\]=-2"),
        ({"entity": np.array([0.0, 1.0, 1.0])}, "entity must be integers"),
        ({"amount": np.array([1.0, np.inf, 1.0])}, "amount must not be infinite"),
        ({"segments": {"c": np.array(["a"])}}, r"segments\['c'\] must have one value per label"),
        ({"label": np.zeros((3, 1))}, "label must have one dimension"),
    ],
)
def test_refuses_payments(changes, message):
    good = {"label": np.array([0, 1, 0]), "score": np.zeros(3), "time_seconds": np.zeros(3)}
    with pytest.raises(DataError, match=message):
        ScoredPayments(**(good | changes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": float("nan")}, "threshold must be finite"),
        ({"replicates": -1}, r"replicates must be at least 0 [(]got replicates=-1"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1"),
        ({"top_k": 0}, "k must be at least 1"),
        ({"fixed_false_positive_rates": (0.0,)}, "fixed false positive rates must lie"),
    ],
)
def test_refuses_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_scores(payments(20), **({"threshold": 0.5} | options))
