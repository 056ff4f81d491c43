"""How long to wait before the next attempt, and whether there is time for one. It knows no HTTP."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

LONGEST_DEADLINE_MS = 600_000
"""The most that the endpoint takes."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """attempts: of one call, the first included. first_seconds: the wait before the second; it doubles, to most_seconds."""

    attempts: int = 4
    first_seconds: float = 0.1
    most_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_seconds <= self.most_seconds < math.inf:
            raise ValueError(f"attempts must be at least 1 and waits from 0 to most_seconds (got {self})")

    def seconds(self, failed: int, asked: float) -> float:
        """The wait after `failed` attempts: the seconds that the server asks for, and a random part on top of them."""
        longest = min(self.most_seconds, self.first_seconds * 2 ** min(failed - 1, 60))
        return asked + random.uniform(longest / 2, longest)


class Deadline:
    """A moment by which a call must come to an end."""

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"deadline_seconds must be above 0 (got {seconds})")
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; 0 once it has passed."""
        return max(0.0, self._end - time.monotonic())

    @property
    def header(self) -> str:
        """The same in whole milliseconds, as the endpoint reads it."""
        return str(min(LONGEST_DEADLINE_MS, max(1, int(self.left * 1000))))


def seconds_of(retry_after: str | None) -> float:
    """A Retry-After header in seconds; dates, which the endpoint does not send, and what is wrong count as 0."""
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdecimal() else 0.0
