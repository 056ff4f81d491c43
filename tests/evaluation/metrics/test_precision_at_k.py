"""Card precision@k against a version that follows the book word by word."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.errors import ConfigError, DataError
from tsa.evaluation.metrics.precision_at_k import card_precision_at_k, daily_precision, entity_days, resampled_precision


def word_by_word(day, entity, score, label, k, remove_caught=True):
    """One day, one entity at a time."""
    caught: set[int] = set()
    precision = []
    for today in sorted(set(day[entity >= 0].tolist())):
        cards = {}
        for e, s, y in zip(entity[day == today], score[day == today], label[day == today], strict=True):
            if e >= 0 and e not in caught:
                best, fraud = cards.get(int(e), (-np.inf, 0))
                cards[int(e)] = (max(best, s), max(fraud, y))
        top = sorted(cards, key=lambda e: (-cards[e][0], e))[:k]
        found = [e for e in top if cards[e][1]]
        precision.append(len(found) / k)
        if remove_caught:
            caught.update(found)
    return precision


@st.composite
def logs(draw):
    size = draw(st.integers(1, 80))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    day = generator.integers(17_000, 17_000 + draw(st.integers(1, 6)), size)
    entity = generator.integers(-1, draw(st.sampled_from([1, 5, 30])), size)
    score = np.round(generator.random(size), draw(st.sampled_from([1, 6])))
    return day, entity, score, generator.integers(0, 2, size), draw(st.integers(1, 8))


@settings(max_examples=200, deadline=None)
@given(logs(), st.booleans())
def test_equals_the_book(log, remove_caught):
    day, entity, score, label, k = log
    expected = word_by_word(day, entity, score, label, k, remove_caught)
    mean, per_day = card_precision_at_k(day, entity, score, label, k, remove_caught=remove_caught)
    np.testing.assert_allclose(per_day, expected)
    assert mean == pytest.approx(np.mean(expected) if expected else np.nan, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(logs(), st.randoms(use_true_random=False))
def test_order_of_payments_does_not_matter(log, random):
    day, entity, score, label, k = log
    order = np.array(random.sample(range(len(day)), len(day)))
    first = card_precision_at_k(day, entity, score, label, k)[1]
    np.testing.assert_array_equal(
        first, card_precision_at_k(day[order], entity[order], score[order], label[order], k)[1]
    )


def test_caught_entities_leave_the_following_days():
    day, entity = np.array([0, 0, 1, 1]), np.array([7, 8, 7, 8])
    score, label = np.array([0.9, 0.1, 0.9, 0.1]), np.array([1, 0, 1, 1])
    assert card_precision_at_k(day, entity, score, label, 1)[1].tolist() == [1.0, 1.0]
    assert card_precision_at_k(day, entity, score, label, 1, remove_caught=False)[1].tolist() == [1.0, 1.0]
    assert card_precision_at_k(day, entity, score, label, 2)[1].tolist() == [0.5, 0.5]
    assert card_precision_at_k(day, entity, score, label, 2, remove_caught=False)[1].tolist() == [0.5, 1.0]


def test_no_entity_no_day():
    nothing = np.zeros(0, dtype=np.int64)
    for entity in (nothing, np.array([-1, -1])):
        mean, per_day = card_precision_at_k(entity * 0, entity, entity * 0.5, entity * 0, 3)
        assert np.isnan(mean)
        assert len(per_day) == 0
        assert (
            len(resampled_precision(entity_days(entity, entity, entity, entity), 3, np.random.default_rng(0), 4)) == 4
        )


def test_refuses_bad_arguments():
    with pytest.raises(ConfigError, match=r"k must be at least 1 [(]got k=0"):
        card_precision_at_k(*[np.zeros(1, dtype=np.int64)] * 4, 0)
    with pytest.raises(DataError, match=r"of one length [(]got 1, 1, 1, 2"):
        entity_days(*[np.zeros(1, dtype=np.int64)] * 3, np.zeros(2))


def naive_replicate(day, entity, score, label, k, weights):
    """Copy the payments of an entity as often as it was drawn, as new entities, but catch all copies together."""
    caught: set[int] = set()
    precision = []
    frame = pl.DataFrame({"day": day, "entity": entity, "score": score, "label": label})
    for (_,), today in sorted(frame.group_by("day")):
        cards = today.group_by("entity").agg(pl.max("score"), pl.max("label")).sort("score", descending=True)
        copies = [row for row in cards.iter_rows() for _ in range(weights[row[0]]) if row[0] not in caught][:k]
        precision.append(sum(fraud for _, _, fraud in copies) / k)
        caught.update(e for e, _, fraud in copies if fraud)
    return np.mean(precision)


def test_replicates_equal_copied_entities():
    generator = np.random.default_rng(5)
    size, entities, k = 3000, 300, 5
    day, entity = generator.integers(0, 5, size), generator.integers(0, entities, size)
    label = (generator.random(size) < 0.05).astype(int)
    score = generator.random(size) + 0.5 * label
    table = entity_days(day, entity, score, label)
    samples = resampled_precision(table, k, np.random.default_rng(1), 300)
    naive = [naive_replicate(day, entity, score, label, k, generator.poisson(1, entities)) for _ in range(60)]
    assert samples.mean() == pytest.approx(np.mean(naive), abs=4 * np.std(naive) / np.sqrt(60))
    assert samples.std() == pytest.approx(np.std(naive), rel=0.5)
    np.testing.assert_array_equal(samples, resampled_precision(table, k, np.random.default_rng(1), 300))


def test_a_replicate_that_draws_each_entity_once_is_the_data(monkeypatch):
    monkeypatch.setattr(
        "tsa.evaluation.metrics.precision_at_k.poisson_one", lambda _, shape: np.ones(shape, dtype=np.int8)
    )
    generator = np.random.default_rng(6)
    size = 20_000
    table = entity_days(
        generator.integers(0, 9, size),
        generator.integers(0, 4000, size),
        generator.random(size),
        generator.random(size) < 0.1,
    )
    for remove in (True, False):
        samples = resampled_precision(table, 30, generator, 3, remove_caught=remove)
        np.testing.assert_allclose(samples, daily_precision(table, 30, remove_caught=remove).mean())
