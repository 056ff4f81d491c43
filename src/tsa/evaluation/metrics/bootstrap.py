"""Poisson bootstrap of payments, or of entities, for intervals of metrics (Chamandy et al. 2012). Seeded.

The weights of m genuine payments in one cell of a ranking sum to Poisson(m), so replicates draw cells, not payments,
without approximation. Drawing entities is more cautious if one card has many frauds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError, DataError
from tsa.evaluation.metrics.ranking import Floats, Integers, Ranking
from tsa.evaluation.metrics.scored_payments import Array
from tsa.evaluation.metrics.weighted import WeightedCounts

Resample = Literal["payments", "entities"]

MINIMUM_EVENTS = 10  # with fewer, all replicates may agree by chance: no interval and no verdict

_BLOCK = 1 << 20  # numbers held at once per array of replicates


def _poisson_table() -> NDArray[np.int8]:
    """65,536 entries in the proportions of Poisson(1), with mean exactly 1, so that a draw is one look-up."""
    counts = [round(65536 * math.exp(-1) / math.factorial(k)) for k in range(9)]
    counts[1] += 65536 - sum(k * count for k, count in enumerate(counts))
    counts[0] += 65536 - sum(counts)
    return np.repeat(np.arange(9, dtype=np.int8), counts)


_POISSON = _poisson_table()


def poisson_one(generator: np.random.Generator, shape: int | tuple[int, ...]) -> NDArray[np.int8]:
    """Weights drawn from Poisson(1), each probability rounded to 1/65536; about ten times faster than numpy's own."""
    return _POISSON[generator.integers(0, 65536, size=shape, dtype=np.uint16)]


def observed(ranking: Ranking) -> WeightedCounts:
    """The payments unweighted: one weighting with all weights 1."""
    return _weights(ranking, np.ones((1, ranking.frauds), dtype=np.int8), ranking.cell_counts[None, :])


def resample(
    ranking: Ranking, generator: np.random.Generator, replicates: int, *, clusters: Integers | None = None
) -> Iterator[WeightedCounts]:
    """Yield weightings, `replicates` in all, in blocks. clusters (n): dense codes to draw instead of payments."""
    if clusters is not None:
        yield from _resample_clusters(ranking, generator, replicates, clusters)
        return
    cells = ranking.cell_counts
    size = max(1, _BLOCK // (len(cells) + ranking.frauds))
    for first in range(0, replicates, size):
        count = min(size, replicates - first)
        frauds = poisson_one(generator, (count, ranking.frauds))
        yield _weights(ranking, frauds, generator.poisson(cells, size=(count, len(cells))))


def _resample_clusters(
    ranking: Ranking, generator: np.random.Generator, replicates: int, clusters: Integers
) -> Iterator[WeightedCounts]:
    units = int(clusters.max(initial=-1)) + 1
    frauds, genuine = clusters[ranking.fraud_rows], clusters[_rows(ranking)]
    for _ in range(replicates):
        drawn = poisson_one(generator, units)
        yield _weights(ranking, drawn[frauds][None, :], ranking.genuine_cells(drawn[genuine])[None, :])


def weigh_rows(ranking: Ranking, row_weights: NDArray[np.int8]) -> WeightedCounts:
    """One weighting from a weight per payment (n,); the ranking must have been made with keep_rows."""
    genuine = ranking.genuine_cells(row_weights[_rows(ranking)])
    return _weights(ranking, row_weights[ranking.fraud_rows][None, :], genuine[None, :])


def _rows(ranking: Ranking) -> Integers:
    if ranking.genuine_rows is None:
        raise ValueError("a ranking must be made with keep_rows=True to weight its rows")
    return ranking.genuine_rows


def _weights(ranking: Ranking, frauds: NDArray[np.int8], genuine: Integers) -> WeightedCounts:
    value = None if ranking.fraud_values is None else ranking.fraud_steps(frauds * ranking.fraud_values)
    return WeightedCounts(fraud=ranking.fraud_steps(frauds), genuine=genuine, value=value, cut=ranking.cut)


def cluster_codes(entity: Array | None) -> Integers:
    """Dense codes (n,) of entities (n,); a payment without an entity (-1) is a separate cluster."""
    if entity is None:
        raise DataError("resample='entities' needs an entity for each payment (got entity=None)")
    codes = np.asarray(entity, dtype=np.int64)
    present = np.zeros(codes.max(initial=-1) + 1, dtype=np.bool_)
    present[codes[codes >= 0]] = True
    dense = (np.cumsum(present) - 1)[codes] if len(present) else np.zeros(len(codes), dtype=np.int64)
    alone = np.flatnonzero(codes < 0)
    dense[alone] = np.count_nonzero(present) + np.arange(len(alone))
    return dense


def interval(samples: Floats, confidence: float, value: float) -> tuple[float, float]:
    """Percentile interval of samples (R,) without NaN, extended to contain the value."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)


def check_settings(*, replicates: int, confidence: float) -> None:
    """Raise ConfigError for settings that give no interval."""
    if replicates < 0:
        raise ConfigError(f"replicates must be at least 0 (got replicates={replicates})")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1 (got confidence={confidence})")
