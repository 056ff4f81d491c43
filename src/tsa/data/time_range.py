"""Ranges of time, as settings and options give them."""

from __future__ import annotations

import math
from datetime import datetime

from tsa.errors import ConfigError
from tsa.times import as_moment, to_seconds


def window_seconds(start: str | datetime | None, end: str | datetime | None) -> tuple[float, float]:
    """[start, end) in epoch seconds, open if not given. Raises ConfigError for an invalid time, or a start after the end."""
    first, last = epoch_seconds("start (--from)", start, -math.inf), epoch_seconds("end (--to)", end, math.inf)
    if first > last:
        raise ConfigError(f"start must not be after end (got start={start}, end={end})")
    return first, last


def epoch_seconds(name: str, when: str | datetime | None, otherwise: float) -> float:
    """Epoch seconds of a UTC time or an ISO string; `otherwise` for None. Raises ConfigError for an invalid time."""
    if when is None:
        return otherwise
    moment = as_moment(when)
    if moment is None:
        raise ConfigError(f"{name} must be a time like 2018-06-24 or 2018-06-24T12:00:00Z (got {when!r})")
    return to_seconds(moment)
