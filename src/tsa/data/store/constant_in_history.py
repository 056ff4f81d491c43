"""Which categorical features never change within a history, such as the category of a merchant in the merchant's history."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tsa.data.store.store import EventStore

SAME = 0.999
"""Least share of pairs of successive events with the same value."""
MIN_PAIRS = 100


def fixed_values(store: EventStore, rows: NDArray[np.int64]) -> dict[str, list[str]]:
    """By history, the categorical features whose value is that of the event before, in 99.9 % of the events `rows`
    (R,) where both are known.
    """
    vocabularies = store.encoder.categorical_vocabularies
    missing = np.array([vocabulary.missing_row for vocabulary in vocabularies])
    by_history: dict[str, list[str]] = {}
    for history, index in store.histories.items():
        position = np.asarray(index.position)[rows]
        later = np.asarray(index.start)[rows] < position
        before = np.take(index.order, position[later] - 1)
        one, other = (
            np.take(store.events.categorical, which, axis=0)[:, : len(vocabularies)] for which in (before, rows[later])
        )
        known = (one != missing) & (other != missing)
        pairs, same = known.sum(axis=0), (known & (one == other)).sum(axis=0)
        fixed = np.flatnonzero((pairs >= MIN_PAIRS) & (same >= SAME * pairs))
        if len(fixed):
            by_history[history] = [vocabularies[at].name for at in fixed.tolist()]
    return by_history
