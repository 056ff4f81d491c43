"""How training shows histories otherwise than they were, so that few frauds teach as many more would.

What is varied depends on the payment alone, not on the batch it comes in. Knows arrays only: no events, no batches, no epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DELAY = 2.0
"""Where the delay is varied, outcomes become known after up to so many times what it is in truth."""
THINNEST = 0.5
"""Where a history is thinned, up to so large a share of its earlier events is left out."""


@dataclass(frozen=True)
class HistoryAugmentation:
    """How B payments see their histories in training; whatever is scored sees them as they are."""

    delay_factor: NDArray[np.float32]
    """(B,) above 0: outcomes show as if they had become known after so many times their delay."""
    drop_probability: NDArray[np.float32]
    """(B,) in [0, 1): the chance of an earlier event to be left out of all histories of the payment."""
    seed: NDArray[np.int64]
    """(B,) which events that are: the same number, the same ones."""

    @classmethod
    def draw(
        cls, n: int, *, label_delay_augmentation: float, event_dropout: float, rng: np.random.Generator
    ) -> HistoryAugmentation:
        """For n payments. `label_delay_augmentation` and `event_dropout` are the shares of them for which there is any."""
        varied = rng.random(n) < label_delay_augmentation
        # above 0, also in float32: at 0 even an outcome that never becomes known would show
        factor = np.where(varied, MAX_DELAY * (1.0 - rng.random(n)), 1.0).astype(np.float32)
        thinned = rng.random(n) < event_dropout
        left_out = np.where(thinned, THINNEST * rng.random(n), 0.0).astype(np.float32)
        return cls(factor, left_out, rng.integers(2**63, size=n))

    def select(self, which: Any) -> HistoryAugmentation:
        """Some of it, in the order of `which`."""
        return HistoryAugmentation(self.delay_factor[which], self.drop_probability[which], self.seed[which])

    def keep_mask(self, event: NDArray[Any]) -> NDArray[np.bool_]:
        """(B, L) whether the events with these numbers (B, L) are shown."""
        drawn: NDArray[np.bool_] = _uniform(self.seed[:, None], event) >= self.drop_probability[:, None]
        return drawn


def _uniform(number: NDArray[np.int64], event: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers in [0, 1) that look drawn by chance, one for each pair: the mixing of SplitMix64 (Steele et al. 2014)."""
    bits = number.astype(np.uint64) + event.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    leading = (bits ^ (bits >> np.uint64(31))) >> np.uint64(40)
    drawn: NDArray[np.float32] = leading.astype(np.float32) * np.float32(2.0**-24)
    return drawn
