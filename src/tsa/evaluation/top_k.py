"""The k of card precision@k: the market's, or one that fits how many keys have a fraud a day."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.times import DAY_SECONDS

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
NOT_KNOWN = 100
"""Where neither the market nor frauds say how many."""


def fitting_k(entity: NDArray[np.int64], label: NDArray[np.int8], time_seconds: NDArray[np.float64]) -> int:
    """The smallest of `STEPS` that is at least the mean number of keys with a fraud a day, over days with payments.

    With a k far above that number, even a perfect model has a precision near 0.

    Args:
        entity: (n,) codes of the keys, -1 for none.
        label: (n,) 1 fraud, 0 genuine.
        time_seconds: (n,)
    """
    day = np.floor_divide(time_seconds, DAY_SECONDS).astype(np.int64)
    is_fraud = (label == 1) & (entity >= 0)
    if not is_fraud.any():
        return NOT_KNOWN
    n_frauds = np.unique(np.stack([day[is_fraud], entity[is_fraud]]), axis=1).shape[1]
    mean = n_frauds / len(np.unique(day[entity >= 0]))
    return next((step for step in STEPS if step >= mean), STEPS[-1])


def bundle_k(bundle: Bundle) -> int:
    """The market's k, else the one that the bundle was evaluated with, else `NOT_KNOWN`."""
    if bundle.market.evaluation.top_k is not None:
        return bundle.market.evaluation.top_k
    settings = ((bundle.metrics or {}).get("evaluation") or {}).get("settings") or {}
    return int(settings.get("top_k") or NOT_KNOWN)
