"""An epoch sees every fraud and a fresh draw of genuine payments, whose rate is what is recorded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsa.training.data.sampler import EpochSample, genuine_drawn, genuine_sampling_rate, sample_epoch


@given(
    label=st.lists(st.integers(0, 1), min_size=1, max_size=60),
    per_fraud=st.floats(0.01, 100),
    seed=st.integers(0, 2**32),
    scored=st.booleans(),
)
def test_an_epoch(label: list[int], per_fraud: float, seed: int, scored: bool) -> None:
    labels = np.array(label)
    rows = 1000 + 3 * np.arange(len(labels))
    rng = np.random.default_rng(seed)
    score = rng.random((labels == 0).sum()) ** 8 if scored else None
    draw = sample_epoch(rows, labels, per_fraud, rng, score)
    assert draw.weight.shape == draw.rows.shape
    assert len(np.unique(draw.rows)) == len(draw.rows), "no row twice"
    assert set(rows[labels == 1]) <= set(draw.rows), "every fraud"
    genuine = np.isin(draw.rows, rows[labels == 0])
    assert genuine.sum() + (labels == 1).sum() == len(draw.rows)
    assert genuine.sum() == genuine_drawn(labels, per_fraud)
    assert (draw.weight[~genuine] == 1).all()
    if genuine.any():
        assert genuine_sampling_rate(labels, per_fraud) == genuine.sum() / (labels == 0).sum(), (
            "the rate is the share, exactly"
        )
        np.testing.assert_allclose(draw.weight[genuine].mean(), 1.0, rtol=1e-5)
        assert (draw.weight > 0).all()


def test_each_epoch_draws_anew_and_a_seed_draws_again() -> None:
    label = np.array([1] * 10 + [0] * 1000)
    rows = np.arange(len(label))
    first, second, again = (sample_epoch(rows, label, 5, np.random.default_rng([0, epoch])).rows for epoch in (1, 2, 1))
    assert len(first) == len(second) == 60
    np.testing.assert_array_equal(first, again)
    assert len(np.intersect1d(first[first >= 10], second[second >= 10])) < 20


def test_every_genuine_row_is_drawn_as_often() -> None:
    label = np.array([1] * 20 + [0] * 100)
    epochs = [sample_epoch(np.arange(120), label, 2, np.random.default_rng(seed)).rows for seed in range(500)]
    counts = np.bincount(np.concatenate(epochs), minlength=120)
    assert (counts[:20] == 500).all()
    assert abs(counts[20:].mean() - 200) < 1e-9
    assert counts[20:].min() > 150
    assert counts[20:].max() < 250


def test_risky_payments_are_drawn_more_often_and_count_less() -> None:
    label = np.array([1] * 20 + [0] * 200)
    score = np.where(np.arange(200) < 20, 0.5, 0.001)
    epochs = [sample_epoch(np.arange(220), label, 2, np.random.default_rng(seed), score) for seed in range(300)]
    counts = np.bincount(np.concatenate([draw.rows for draw in epochs]), minlength=220)[20:] / 300
    assert counts[:20].min() > 3 * counts[20:].mean()
    assert counts[20:].min() > 0.05, "the others are still seen"
    weight = {bool(row < 40): weight for row, weight in zip(epochs[0].rows, epochs[0].weight, strict=True) if row >= 20}
    assert weight[True] < weight[False]


@pytest.mark.parametrize(
    ("frauds", "genuine", "per_fraud", "drawn"),
    [(2, 10, 3.0, 6), (5, 10, 9.0, 10), (1, 10, 0.1, 1), (3, 0, 9.0, 0), (0, 10, 9.0, 1)],
)
def test_how_many_are_drawn(frauds: int, genuine: int, per_fraud: float, drawn: int) -> None:
    label = np.array([1] * frauds + [0] * genuine)
    assert genuine_drawn(label, per_fraud) == drawn
    assert genuine_sampling_rate(label, per_fraud) == (drawn / genuine if genuine else 1.0)


def test_varying_what_rows_see_draws_the_same_rows() -> None:
    label = np.array([1] * 20 + [0] * 400)
    plain, varied = (
        sample_epoch(
            np.arange(420), label, 5, np.random.default_rng(4), label_delay_augmentation=share, event_dropout=share
        )
        for share in (0.0, 0.7)
    )
    assert (plain.variation.delay_factor == 1.0).all()
    assert (plain.variation.drop_probability == 0.0).all()
    np.testing.assert_array_equal(plain.rows, varied.rows)
    np.testing.assert_array_equal(plain.weight, varied.weight)
    some = varied.part(slice(3, 9))
    for name, value in vars(varied.variation).items():
        assert value.shape == varied.rows.shape
        np.testing.assert_array_equal(getattr(some.variation, name), value[3:9])


def test_a_draw_is_made_anew_from_its_state() -> None:
    label = np.array([1] * 20 + [0] * 400)
    draw = sample_epoch(
        np.arange(420), label, 5, np.random.default_rng(4), label_delay_augmentation=0.5, event_dropout=0.5
    )
    again = EpochSample.from_state_dict(draw.state_dict())
    np.testing.assert_array_equal(again.rows, draw.rows)
    np.testing.assert_array_equal(again.weight, draw.weight)
    for name, value in vars(draw.variation).items():
        np.testing.assert_array_equal(getattr(again.variation, name), value)
