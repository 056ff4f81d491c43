"""Limit the rate of requests: a token bucket for each client."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

MAX_CLIENTS = 10_000
"""Largest number of clients whose buckets are held."""


class TokenBucketLimiter:
    """A token bucket per client, refilled with `rate` tokens a second up to `burst`. `rate` None: no limit."""

    def __init__(self, rate: float | None, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, client: str, count: float = 1.0, *, min_tokens: float = 0.0) -> int | None:
        """Take `count` tokens if there are more than `min_tokens`.

        A bucket may go below zero, because the number of payments is only known after the body was read.

        Returns:
            None, or the seconds to wait if there were too few tokens.
        """
        if self._rate is None:
            return None
        now = self._clock()
        level, then = self._levels.get(client, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        if level < min_tokens:
            return max(1, math.ceil((min_tokens - level) / self._rate))
        if len(self._levels) >= MAX_CLIENTS and client not in self._levels:
            self._forget()
        self._levels[client] = (level - count, now)
        return None

    def _forget(self) -> None:
        """Delete the least recently used half: their buckets are the fullest, and a full one is the same as none."""
        oldest = sorted(self._levels, key=lambda name: self._levels[name][1])[: MAX_CLIENTS // 2]
        for name in oldest:
            del self._levels[name]
