"""Population stability index (PSI): how far a distribution has moved from a reference. The only definition in TSA.

PSI = Σ (p − q) · ln(p / q) over bins with the shares p and q of the two samples (Siddiqi 2006; the Jeffreys divergence).
Below 0.1 usually counts as little change, from 0.25 as much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
FLOOR = 1e-4
"""Minimum share of a bin: an empty one would make the index infinite."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def psi_of_shares(reference: ArrayLike, current: ArrayLike) -> float:
    """The index of two samples' counts, or shares, in the same bins (k). 0 where either sample is empty."""
    p, q = (np.asarray(counts, np.float64) for counts in (reference, current))
    if p.sum() == 0 or q.sum() == 0:
        return 0.0
    p, q = (np.maximum(counts / counts.sum(), FLOOR) for counts in (p, q))
    return float(((p - q) * np.log(p / q)).sum())


def psi(reference: ArrayLike, current: ArrayLike, bins: int = BINS) -> float:
    """The index of two samples of numbers (n,), (m,): bins of equal mass in the reference; NaN is a separate bin."""
    first, second = (np.asarray(values, np.float64) for values in (reference, current))
    edges = equal_mass_edges(first, bins)
    return psi_of_shares(*(np.append(bin_counts(v, edges), np.isnan(v).sum()) for v in (first, second)))


def equal_mass_edges(values: Floats, bins: int = BINS) -> tuple[float, ...]:
    """Inner edges of `bins` bins with about equal mass of values (n,), without NaN.

    A value that alone fills a bin gets a separate bin, so that a change of a constant or mostly zero feature is detected.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return ()
    quantiles = np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1], method="lower")
    edges, times = np.unique(quantiles, return_counts=True)
    return tuple(np.unique([*edges, *np.nextafter(edges[times > 1], np.inf)]).tolist())


def bin_of(values: Floats, edges: tuple[float, ...]) -> Integers:
    """(n,) the bin of each value (no NaN): how many of the k ascending edges are at or below it."""
    codes: Integers = np.searchsorted(np.array(edges), values, side="right")
    return codes


def bin_counts(values: Floats, edges: tuple[float, ...]) -> Integers:
    """(k + 1,) how many of the values lie in each bin, without NaN."""
    return np.bincount(bin_of(values[~np.isnan(values)], edges), minlength=len(edges) + 1)
