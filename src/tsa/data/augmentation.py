"""Augmentation of histories in training: label delays are varied and earlier events dropped.

The variation depends on the payment alone, not on its batch. Start with `HistoryAugmentation.draw`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DELAY = 2.0
"""Largest factor by which a varied delay is multiplied."""
THINNEST = 0.5
"""Largest share of earlier events that is dropped."""


@dataclass(frozen=True)
class HistoryAugmentation:
    """How B payments see their histories in training. Scoring always uses the true histories."""

    delay_factor: NDArray[np.float32]
    """(B,) above 0: the factor by which the delay of outcomes is multiplied."""
    drop_probability: NDArray[np.float32]
    """(B,) in [0, 1): the probability that an earlier event is dropped from all histories of the payment."""
    seed: NDArray[np.int64]
    """(B,) seeds: the same seed drops the same events."""

    @classmethod
    def draw(
        cls, n: int, *, label_delay_augmentation: float, event_dropout: float, rng: np.random.Generator
    ) -> HistoryAugmentation:
        """Draw for n payments. `label_delay_augmentation` and `event_dropout` are the shares of payments that are varied."""
        varied = rng.random(n) < label_delay_augmentation
        # above 0, also in float32: at 0 even an outcome that never becomes known would show
        factor = np.where(varied, MAX_DELAY * (1.0 - rng.random(n)), 1.0).astype(np.float32)
        thinned = rng.random(n) < event_dropout
        left_out = np.where(thinned, THINNEST * rng.random(n), 0.0).astype(np.float32)
        return cls(factor, left_out, rng.integers(2**63, size=n))

    def select(self, which: Any) -> HistoryAugmentation:
        """Some of the payments, in the order of `which`."""
        return HistoryAugmentation(self.delay_factor[which], self.drop_probability[which], self.seed[which])

    def keep_mask(self, event: NDArray[Any]) -> NDArray[np.bool_]:
        """(B, L) whether the events with these numbers (B, L) are shown."""
        drawn: NDArray[np.bool_] = _uniform(self.seed[:, None], event) >= self.drop_probability[:, None]
        return drawn


def _uniform(number: NDArray[np.int64], event: NDArray[Any]) -> NDArray[np.float32]:
    """Pseudo-random numbers in [0, 1), one per pair, by the mixing function of SplitMix64 (Steele et al. 2014)."""
    bits = number.astype(np.uint64) + event.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    leading = (bits ^ (bits >> np.uint64(31))) >> np.uint64(40)
    drawn: NDArray[np.float32] = leading.astype(np.float32) * np.float32(2.0**-24)
    return drawn
