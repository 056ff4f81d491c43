"""How training shows histories otherwise than they were."""

from __future__ import annotations

import numpy as np
import pytest

from tsa.data.augmentation import MAX_DELAY, THINNEST, HistoryAugmentation


def drawn(n: int = 4000, *, label_delay_augmentation: float = 0.0, event_dropout: float = 0.0) -> HistoryAugmentation:
    rng = np.random.default_rng(3)
    return HistoryAugmentation.draw(
        n, label_delay_augmentation=label_delay_augmentation, event_dropout=event_dropout, rng=rng
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_delay_is_varied_for_a_share(share: float) -> None:
    factor = drawn(label_delay_augmentation=share).delay_factor
    varied = factor != 1.0
    assert varied.mean() == pytest.approx(share, abs=0.05)
    assert ((factor > 0) & (factor <= MAX_DELAY)).all()
    if share:
        assert factor[varied].mean() == pytest.approx(MAX_DELAY / 2, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_histories_are_thinned_for_a_share(share: float) -> None:
    left_out = drawn(event_dropout=share).drop_probability
    thinned = left_out > 0.0
    assert thinned.mean() == pytest.approx(share, abs=0.05)
    assert ((left_out >= 0) & (left_out <= THINNEST)).all()
    if share:
        assert left_out[thinned].mean() == pytest.approx(THINNEST / 2, abs=0.05)


def test_the_delay_does_not_depend_on_thinning() -> None:
    plain, thinned = drawn(label_delay_augmentation=0.5), drawn(label_delay_augmentation=0.5, event_dropout=0.5)
    np.testing.assert_array_equal(plain.delay_factor, thinned.delay_factor)


def test_as_many_events_are_left_out_as_the_chance_says() -> None:
    left_out = np.array([0.0, 0.1, 0.25, 0.5], np.float32)
    varied = HistoryAugmentation(np.ones(4, np.float32), left_out, np.array([0, 1, 2**40, 2**62]))
    event = np.broadcast_to(np.arange(20_000), (4, 20_000))
    shown = varied.keep_mask(event)
    assert shown[0].all()
    np.testing.assert_allclose(1.0 - shown.mean(axis=1), left_out, atol=0.01)
    # neighbours have nothing to do with each other
    assert np.corrcoef(shown[3, :-1], shown[3, 1:])[0, 1] == pytest.approx(0.0, abs=0.03)


def test_payments_leave_out_other_events_and_the_same_number_the_same() -> None:
    half = np.full(3, 0.5, np.float32)
    shown = HistoryAugmentation(half, half, np.array([7, 8, 7])).keep_mask(
        np.broadcast_to(np.arange(5_000), (3, 5_000))
    )
    np.testing.assert_array_equal(shown[0], shown[2])
    assert (shown[0] == shown[1]).mean() == pytest.approx(0.5, abs=0.03)


def test_a_part_shows_what_the_whole_shows() -> None:
    whole = drawn(50, label_delay_augmentation=0.5, event_dropout=1.0)
    event = np.random.default_rng(5).integers(0, 9, (50, 6))
    some = np.array([40, 3, 3, 11])
    np.testing.assert_array_equal(whole.select(some).keep_mask(event[some]), whole.keep_mask(event)[some])
    np.testing.assert_array_equal(whole.select(some).delay_factor, whole.delay_factor[some])
