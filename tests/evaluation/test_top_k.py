"""The k of card precision@k fits how many keys have a fraud a day."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tsa.evaluation.top_k import NOT_KNOWN, bundle_k, fitting_k
from tsa.times import DAY_SECONDS


def payments(frauds_a_day: list[int], genuine: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    day = np.repeat(np.arange(len(frauds_a_day)), [genuine + n for n in frauds_a_day])
    label = np.concatenate([[1] * n + [0] * genuine for n in frauds_a_day]).astype(np.int8)
    return np.arange(len(day)), label, day * float(DAY_SECONDS) + 5.0


@pytest.mark.parametrize(
    ("frauds_a_day", "k"),
    [([1, 0, 0], 1), ([2, 1, 2], 2), ([3, 3], 5), ([5, 5], 5), ([6, 5], 10), ([30, 45], 50), ([1200], 1000)],
)
def test_the_smallest_step_that_holds_the_mean(frauds_a_day: list[int], k: int) -> None:
    assert fitting_k(*payments(frauds_a_day)) == k


def test_a_key_with_several_frauds_a_day_counts_once_and_payments_without_key_do_not() -> None:
    entity, label, time_seconds = payments([4, 4])
    assert fitting_k(np.where(label == 1, 7, entity), label, time_seconds) == 1
    assert fitting_k(np.where(label == 1, -1, entity), label, time_seconds) == NOT_KNOWN
    assert fitting_k(entity, np.zeros_like(label), time_seconds) == NOT_KNOWN


@pytest.mark.parametrize(("market", "evaluated", "k"), [(7, 5, 7), (None, 5, 5), (None, None, NOT_KNOWN)])
def test_a_bundle_keeps_the_k_of_its_evaluation(market: int | None, evaluated: int | None, k: int) -> None:
    metrics = None if evaluated is None else {"evaluation": {"settings": {"top_k": evaluated}}}
    bundle = SimpleNamespace(market=SimpleNamespace(evaluation=SimpleNamespace(top_k=market)), metrics=metrics)
    assert bundle_k(bundle) == k  # type: ignore[arg-type]
