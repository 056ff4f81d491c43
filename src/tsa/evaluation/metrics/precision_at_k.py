"""Card precision@k: the share of true frauds if a team reviews the k riskiest cards of each UTC day.

An entity (card, customer) has the score of its riskiest payment of the day; caught entities are removed from later days
(Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection", chapter 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError, DataError
from tsa.evaluation.metrics.bootstrap import poisson_one
from tsa.evaluation.metrics.ranking import Floats, Integers
from tsa.evaluation.metrics.scored_payments import Array


@dataclass(frozen=True, kw_only=True)
class EntityDays:
    """One row per day and entity, days ascending; within a day by descending score, ties by ascending entity code."""

    days: Integers  # (D) the days that have payments
    starts: Integers  # (D + 1) first row of each day, and the end
    entity: Integers  # (E)
    fraud: NDArray[np.bool_]  # (E) has a fraud that day


def card_precision_at_k(
    day: Array, entity: Array, score: Array, label: Array, k: int, *, remove_caught: bool = True
) -> tuple[float, Floats]:
    """Mean precision@k over days, and the precision of each day with payments, in order: (D,).

    Args:
        day: (n,) integers.
        entity: (n,) codes, -1 for none (left out).
        score: (n,).
        label: (n,) in {0, 1}.

    As in the protocol, the divisor is k even on a day with fewer entities. Ties at rank k go to the lower entity code,
    which is independent of labels. NaN and an empty array without days.
    """
    per_day = daily_precision(entity_days(day, entity, score, label), k, remove_caught=remove_caught)
    return (float(per_day.mean()) if len(per_day) else float("nan")), per_day


def entity_days(day: Array, entity: Array, score: Array, label: Array) -> EntityDays:
    """Reduce payments to entity-days: highest score, any fraud."""
    if not len(day) == len(entity) == len(score) == len(label):
        raise DataError(
            "day, entity, score and label must be of one length (got "
            f"{len(day)}, {len(entity)}, {len(score)}, {len(label)})"
        )
    known = np.flatnonzero(np.asarray(entity) >= 0)
    days, day_index = np.unique(np.asarray(day)[known], return_inverse=True)
    codes = np.asarray(entity, dtype=np.int64)[known]
    width = int(codes.max(initial=0)) + 1
    key = day_index * width + codes
    order = np.argsort(key)
    key, rows = key[order], known[order]
    first = np.flatnonzero(np.diff(key, prepend=-1) != 0)
    if not len(first):
        return EntityDays(days=days, starts=np.zeros(1, np.int64), entity=codes, fraud=np.zeros(0, np.bool_))
    highest = np.maximum.reduceat(np.asarray(score)[rows], first)
    fraud = np.logical_or.reduceat(np.asarray(label)[rows] == 1, first)
    starts = np.searchsorted(key[first], np.arange(len(days) + 1) * width)
    ranked = np.concatenate([a + np.argsort(-highest[a:b], kind="stable") for a, b in pairwise(starts)])
    return EntityDays(days=days, starts=starts, entity=(key[first] % width)[ranked], fraud=fraud[ranked])


def daily_precision(table: EntityDays, k: int, *, remove_caught: bool = True) -> Floats:
    """Precision@k of each day: (D)."""
    _check_k(k)
    caught = np.zeros(int(table.entity.max(initial=-1)) + 1, dtype=np.bool_)
    precision = np.zeros(len(table.days))
    for index, (start, end) in enumerate(pairwise(table.starts)):
        entity, fraud = table.entity[start:end], table.fraud[start:end]
        reviewed = np.flatnonzero(~caught[entity])[:k]
        hits = reviewed[fraud[reviewed]]
        precision[index] = len(hits) / k
        if remove_caught:
            caught[entity[hits]] = True
    return precision


def resampled_precision(
    table: EntityDays, k: int, generator: np.random.Generator, replicates: int, *, remove_caught: bool = True
) -> Floats:
    """Mean precision@k of bootstrap replicates that draw entities with replacement: (R).

    An entity drawn twice takes two of the k positions, and is caught once.
    """
    _check_k(k)
    draws = _EntityDraws(int(table.entity.max(initial=-1)) + 1, generator, replicates)
    total = np.zeros(replicates)
    for start, end in pairwise(table.starts):
        total += _resampled_day(table.entity[start:end], table.fraud[start:end], k, draws, remove_caught) / k
    return total / max(1, len(table.days))


def _resampled_day(
    entity: Integers, fraud: NDArray[np.bool_], k: int, draws: _EntityDraws, remove_caught: bool
) -> Integers:
    """Frauds among the top k of one day, per replicate: (R,). Reads only as many rows as some replicate needs."""
    reach = min(len(entity), 2 * k)
    while True:
        columns = draws.columns(entity[:reach])
        weights = np.where(draws.caught[:, columns], 0, draws.weights[:, columns])
        places = np.cumsum(weights, axis=1, dtype=np.int64)
        if reach == len(entity) or (places[:, -1] >= k).all():
            break
        reach = min(len(entity), 2 * reach)
    hits = np.clip(k - (places - weights), 0, weights) * fraud[:reach]
    if remove_caught:
        draws.caught[:, columns] |= hits > 0
    return np.asarray(hits.sum(axis=1, dtype=np.int64))


class _EntityDraws:
    """Poisson(1) weights and "was caught" per replicate (R) and entity, drawn when an entity first occurs."""

    def __init__(self, entities: int, generator: np.random.Generator, replicates: int) -> None:
        self._column = np.full(entities, -1, dtype=np.int64)
        self._used = 0
        self._generator = generator
        self.weights = np.zeros((replicates, 1024), dtype=np.int8)
        self.caught = np.zeros((replicates, 1024), dtype=np.bool_)

    def columns(self, entities: Integers) -> Integers:
        """Column of each of the distinct entities (M) in weights and caught: (M)."""
        new = entities[self._column[entities] < 0]
        end = self._used + len(new)
        while end > self.weights.shape[1]:
            self.weights = np.concatenate([self.weights, np.zeros_like(self.weights)], axis=1)
            self.caught = np.concatenate([self.caught, np.zeros_like(self.caught)], axis=1)
        self._column[new] = np.arange(self._used, end)
        self.weights[:, self._used : end] = poisson_one(self._generator, (len(self.weights), len(new)))
        self._used = end
        return np.asarray(self._column[entities])


def _check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k must be at least 1 (got k={k})")
