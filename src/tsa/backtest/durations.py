"""Durations as people write them: 7d, 12h, 2w."""

from __future__ import annotations

import re

from tsa.errors import ConfigError
from tsa.times import DAY_SECONDS

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": DAY_SECONDS, "w": 7 * DAY_SECONDS}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d|w)")


def duration_seconds(name: str, text: str) -> float:
    """Seconds of a duration.

    Args:
        name: The option, for the message.
        text: A number and a unit: s, min, h, d or w.

    Raises:
        ConfigError: For anything else, and for 0.
    """
    match = _DURATION.fullmatch(text.strip().casefold())
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not seconds > 0:
        raise ConfigError(f"{name} must be a number above 0 with a unit s, min, h, d or w, such as 7d (got {text!r})")
    return seconds


def duration_text(seconds: float) -> str:
    """The duration in the largest unit up to days that divides it: 7d, 36h."""
    unit = next((unit for unit in ("d", "h", "min") if seconds % UNITS[unit] == 0), "s")
    return f"{seconds / UNITS[unit]:g}{unit}"
