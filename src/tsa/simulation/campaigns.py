"""Groups of payments that belong together (a burst, a period at a terminal), and their times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsa.simulation.config import SECONDS_A_DAY, SimulationConfig


@dataclass(frozen=True, kw_only=True)
class Campaigns:
    """k campaigns with n payments in all: `of` (n) the campaign of each, `step` (n) its number within it from 0 on."""

    k: int
    of: np.ndarray
    step: np.ndarray

    @staticmethod
    def draw(rng: np.random.Generator, total: int, min_size: int, mean: float) -> Campaigns:
        """Campaigns of at least `min_size` payments, `mean` on average; the last is cut so that the sum is `total`."""
        sizes = min_size - 1 + rng.geometric(1.0 / (mean - min_size + 1.0), total // min_size + 1)
        ends = np.minimum(np.cumsum(sizes), total)
        k = int(np.searchsorted(ends, total) + 1) if total else 0
        sizes = np.diff(ends[:k], prepend=0)
        first = np.cumsum(sizes) - sizes
        return Campaigns(k=k, of=np.repeat(np.arange(k), sizes), step=np.arange(total) - np.repeat(first, sizes))

    def __len__(self) -> int:
        return len(self.of)


def burst_seconds(
    config: SimulationConfig, rng: np.random.Generator, campaigns: Campaigns, gap_seconds: float, spread: float
) -> np.ndarray:
    """Seconds (n,) of payments with log-normal gaps, starting at a random moment of the period."""
    gaps = np.where(campaigns.step > 0, rng.lognormal(np.log(gap_seconds), spread, len(campaigns)), 0.0)
    run = np.cumsum(gaps)
    firsts = run[campaigns.step == 0]
    after = run - firsts[campaigns.of]
    span = np.zeros(campaigns.k)
    np.maximum.at(span, campaigns.of, after)
    fits = np.minimum(1.0, 0.9 * config.period_seconds / np.maximum(span, 1.0))  # a period shorter than the burst
    first = rng.random(campaigns.k) * (config.period_seconds - span * fits)
    seconds = first[campaigns.of] + after * fits[campaigns.of]
    return np.asarray(np.minimum(seconds, config.period_seconds - 1e-3))


def window_days(
    config: SimulationConfig, rng: np.random.Generator, campaigns: Campaigns, min_days: float, max_days: float
) -> np.ndarray:
    """Days (n,) within a separate random window for each campaign, inside the period."""
    window = np.minimum(rng.uniform(min_days, max_days, campaigns.k), config.days)
    first = rng.random(campaigns.k) * (config.days - window)
    days = np.floor(first[campaigns.of] + rng.random(len(campaigns)) * window[campaigns.of])
    return np.asarray(np.minimum(days, config.days - 1.0))


def window_seconds(days: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Seconds (n,) since the start of the period, from days and seconds within the day."""
    return np.asarray(days * SECONDS_A_DAY + within)
