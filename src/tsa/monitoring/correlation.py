"""Outcomes that depend on each other: a stolen card has several frauds, a compromised terminal many.

The probability of a payment does not say this. In a model of it, a payment follows with some probability the chance that all
payments of its key share, and its own otherwise. Probabilities stay as they are. `fit_shares` measures how often payments
follow which key, by the known outcomes; `draw_outcomes` draws with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class SharedChance:
    """How outcomes of payments of the same key depend on each other."""

    shares: tuple[float, ...]
    """For each key: how often a payment follows the chance of its key. Their sum is at most 1."""
    design_effect: float
    """The variance of the number of frauds, relative to that of independent outcomes; at least 1."""


def fit_shares(probability: Floats, fraud: Floats, keys: Sequence[Codes], windows: Codes) -> SharedChance:
    """Measure how outcomes of the same key and window depend on each other.

    Args:
        probability: (n,) of payments whose outcome is known.
        fraud: (n,) 1 or 0.
        keys: For each kind of key, (n,) codes, -1 for none.
        windows: (n,) the window of each payment.
    """
    if not len(probability) or not fraud.any() or not keys:
        return SharedChance((0.0,) * len(keys), 1.0)
    # the level of the probabilities is another question
    residual = fraud - probability * (fraud.sum() / probability.sum())
    squares, excess = [], 0.0
    for codes in keys:
        has = codes >= 0
        together = _groups(codes[has], windows[has])
        observed = _of_pairs(residual[has], together)
        most = _smaller_of_pairs(probability[has], together) - _of_pairs(probability[has], together)
        squares.append(min(1.0, max(0.0, observed) / most) if most > 0 else 0.0)
        excess += max(0.0, min(observed, most))
    shares = np.sqrt(squares)
    shares /= max(1.0, shares.sum())
    independent = float(np.sum(probability * (1 - probability)))
    return SharedChance(tuple(shares.tolist()), 1.0 + excess / independent)


def draw_outcomes(
    probability: Floats, keys: Sequence[Codes], shares: Sequence[float], generator: np.random.Generator
) -> NDArray[np.bool_]:
    """(n,) outcomes of payments.

    Args:
        probability: (n,).
        keys: For each kind of key, (n,) codes, -1 for none.
        shares: As `SharedChance` has them.
        generator: Draws.
    """
    chance = generator.random(len(probability))
    if any(shares):
        choice, edge = generator.random(len(probability)), 0.0
        for codes, share in zip(keys, shares, strict=True):
            follows = (choice >= edge) & (choice < edge + share) & (codes >= 0)
            shared = generator.random(int(codes.max(initial=0)) + 1)
            chance[follows] = shared[codes[follows]]
            edge += share
    return chance < probability


def renumbered(codes: Codes) -> Codes:
    """(n,) codes from 0 on without gaps; -1 stays."""
    made = np.full(len(codes), -1)
    made[codes >= 0] = np.unique(codes[codes >= 0], return_inverse=True)[1]
    return made


def _groups(codes: Codes, windows: Codes) -> Codes:
    """(n,) codes of the pairs of key and window."""
    pairs = codes * (int(windows.max(initial=0)) + 1) + windows
    return np.asarray(np.unique(pairs, return_inverse=True)[1], np.int64).reshape(-1)


def _of_pairs(values: Floats, groups: Codes) -> float:
    """The sum of a_i a_j over all pairs i ≠ j of a group."""
    return float(np.sum(np.bincount(groups, values) ** 2) - np.sum(values**2))


def _smaller_of_pairs(values: Floats, groups: Codes) -> float:
    """The sum of min(a_i, a_j) over all pairs i ≠ j of a group: each value counts for those that are not below it."""
    order = np.lexsort((values, groups))
    ends = np.cumsum(np.bincount(groups))
    above = ends[groups[order]] - 1 - np.arange(len(values))
    return float(2 * np.sum(values[order] * above))
