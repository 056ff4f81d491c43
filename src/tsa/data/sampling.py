"""Which training rows an epoch sees: every fraud, and a fresh draw of genuine payments.

Sampling genuine payments down shifts every score; `genuine_rate` is the number that a score must be corrected with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def genuine_rate(label: NDArray[Any], genuine_per_fraud: float) -> float:
    """Share of the genuine rows that one epoch draws. label: (n,) of 0 and 1."""
    n_fraud = int(np.count_nonzero(label == 1))
    n_genuine = int(np.count_nonzero(label == 0))
    return min(1.0, n_fraud * genuine_per_fraud / n_genuine) if n_genuine else 1.0


def epoch_rows(rows: Rows, label: NDArray[Any], genuine_per_fraud: float, rng: np.random.Generator) -> Rows:
    """All frauds and `genuine_per_fraud` times as many genuine rows, drawn without replacement and shuffled.

    rows: (m,) row numbers; label: (m,) their labels, 0 or 1. Too few genuine rows: all of them.
    """
    fraud, genuine = rows[label == 1], rows[label == 0]
    wanted = min(len(genuine), round(len(fraud) * genuine_per_fraud))
    drawn = rng.choice(genuine, wanted, replace=False)
    return rng.permutation(np.concatenate([fraud, drawn]))
