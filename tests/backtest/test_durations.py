"""Durations of options: units, and what is refused."""

from __future__ import annotations

import pytest

from tsa.backtest.durations import duration_seconds, duration_text
from tsa.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("2w", 1_209_600), ("90 min", 5400), ("1.5D", 129_600)]
)
def test_units(text: str, seconds: float) -> None:
    assert duration_seconds("--every", text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "7 days", "1e3s", "inf d"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--every must be a number above 0 with a unit"):
        duration_seconds("--every", text)


def test_texts() -> None:
    assert [duration_text(seconds) for seconds in (604_800, 43_200, 5400, 7)] == ["7d", "12h", "90min", "7s"]
