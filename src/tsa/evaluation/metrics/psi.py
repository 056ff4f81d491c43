"""Population stability index: how far a distribution has moved from a reference.

PSI = Σ (p − q) · ln(p / q) over bins, p and q being the shares of the two samples in a bin (Siddiqi 2006; twice the
Jeffreys divergence's half). A usual reading: below 0.1 little, from 0.25 on much. It knows numbers and texts, no features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
FLOOR = 1e-4
"""Least share of a bin: an empty one would make the index infinite."""


def psi_of_shares(reference: ArrayLike, current: ArrayLike) -> float:
    """The index of two samples' counts, or shares, in the same bins (k). 0 where either sample is empty."""
    p, q = (np.asarray(counts, np.float64) for counts in (reference, current))
    if p.sum() == 0 or q.sum() == 0:
        return 0.0
    p, q = (np.maximum(counts / counts.sum(), FLOOR) for counts in (p, q))
    return float(((p - q) * np.log(p / q)).sum())


def psi(reference: ArrayLike, current: ArrayLike, bins: int = BINS) -> float:
    """The index of two samples of numbers (n,), (m,): bins of equal mass in the reference; NaN is a bin of its own."""
    first, second = (np.asarray(values, np.float64) for values in (reference, current))
    edges = bin_edges(first, bins)
    return psi_of_shares(binned(first, edges), binned(second, edges))


def bin_edges(reference: NDArray[np.float64], bins: int = BINS) -> NDArray[np.float64]:
    """Rising inner edges of bins that hold about as much of the reference each; equal values stay in one bin."""
    known = reference[~np.isnan(reference)]
    if not len(known):
        return np.empty(0)
    edges: NDArray[np.float64] = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    return edges


def binned(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """(k + 2,) how many values are up to each of k edges, above all of them, and missing."""
    missing = np.isnan(values)
    counts = np.bincount(np.searchsorted(edges, values[~missing], side="left"), minlength=len(edges) + 1)
    return np.append(counts, missing.sum())
