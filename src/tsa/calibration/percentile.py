"""The percentile score: the share of calibration payments that score lower.

A fitted map interpolates between its knots; an imported one is looked up exactly as in the legacy TSA system.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsa.errors import CalibrationError

Floats = NDArray[np.float64]

QUANTILES = 1000
"""Levels 0, 0.001, … 0.999; the legacy system's percentiles."""

PER_DECADE = 250
"""Further levels in the top 1 %, for each tenfold rarer share of payments: steps of 1 % of the share above."""


QUANTILE_ROUNDING = 1e-9
"""Tolerated decrease between quantiles of an imported map, due to rounding."""

SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
"""Scores below this count as 0: a line between two of them would be too steep for a float."""


@dataclass(frozen=True, kw_only=True)
class PercentileMap:
    """Monotone map from raw scores to percentiles in [0, 1].

    rule "share": interpolated between the knots (score, share of payments below it). "legacy": the percentile of the
    pair *after* the last one whose score is not above the raw score; see `_look_up`. Both: 0 for scores ≤ 0, 1 for ≥ 1.
    """

    rule: Literal["share", "legacy"]
    scores: tuple[float, ...]
    percentiles: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.rule not in ("share", "legacy"):
            raise CalibrationError(f"percentile rule must be 'share' or 'legacy' (got {self.rule!r})")
        if not self.scores or len(self.scores) != len(self.percentiles):
            sizes = f"{len(self.scores)} scores, {len(self.percentiles)} percentiles"
            raise CalibrationError(f"a percentile map needs as many percentiles as scores (got {sizes})")
        for name, values in (("scores", self.scores), ("percentiles", self.percentiles)):
            bad = next((i for i, v in enumerate(values) if not math.isfinite(v) or (i and v < values[i - 1])), None)
            if bad is not None:
                raise CalibrationError(f"{name} of a percentile map must rise (got {values[bad]!r} at {bad})")
        if not 0 <= self.percentiles[0] <= self.percentiles[-1] <= 1:
            ends = f"{self.percentiles[0]} to {self.percentiles[-1]}"
            raise CalibrationError(f"percentiles must lie in [0, 1] (got {ends})")

    @classmethod
    def fit(cls, scores: ArrayLike) -> Self:
        """The map of calibration scores (n,) in [0, 1]: 1000 quantiles, and finer steps in the top 1 %.

        At a knot the percentile is exactly the share of calibration payments that score lower.

        Raises:
            CalibrationError: Without two distinct scores, or for scores outside [0, 1].
        """
        values = np.asarray(scores, np.float64)
        if not ((values >= 0) & (values <= 1)).all():
            raise CalibrationError("calibration scores must lie in [0, 1], but some do not")
        values = np.where(values < SMALLEST_NORMAL, 0.0, values)
        distinct, first = np.unique(np.sort(values), return_index=True)
        if len(distinct) < 2:
            actual = f"{len(values)} payments with {len(distinct)} different scores"
            raise CalibrationError(f"percentiles need payments with different scores (got {actual})")
        share = first / len(values)
        knots_at = np.searchsorted(share, _levels(len(values)), side="left")
        positions = np.unique(np.clip([*knots_at, 0, len(share) - 1], 0, len(share) - 1))
        positions = np.unique(
            np.clip([*positions, *positions[np.flatnonzero(_is_leap(share, positions))] - 1], 0, None)
        )
        return cls(
            rule="share", scores=tuple(distinct[positions].tolist()), percentiles=tuple(share[positions].tolist())
        )

    @classmethod
    def from_legacy(cls, pairs: Sequence[Sequence[float]]) -> Self:
        """The legacy system's map: pairs [score quantile at p, p], ascending. Raises CalibrationError if they are not."""
        if not all(len(pair) == 2 for pair in pairs):
            raise CalibrationError("a percentile map must be pairs [score, percentile] (got other entries)")
        scores, percentiles = (risen([float(pair[at]) for pair in pairs], QUANTILE_ROUNDING) for at in (0, 1))
        return cls(rule="legacy", scores=scores, percentiles=percentiles)

    def __call__(self, raw: ArrayLike) -> Floats:
        """Percentiles of raw scores, of any shape, as float64. Raises CalibrationError for a score that is not finite."""
        values = as_finite_array("raw score", raw)
        inside = self._legacy_lookup(values) if self.rule == "legacy" else self._interpolate(values)
        out: Floats = np.where(values <= 0, 0.0, np.where(values >= 1, 1.0, inside))
        return out

    @cached_property
    def _arrays(self) -> tuple[Floats, Floats]:
        return np.array(self.scores), np.array(self.percentiles)

    def _interpolate(self, raw: Floats) -> Floats:
        out: Floats = np.interp(raw, *self._up_to_one)
        return out

    @cached_property
    def _up_to_one(self) -> tuple[Floats, Floats]:
        """Above the highest calibration score the map still increases, to 1 at 1, to preserve the order."""
        scores, percentiles = self._arrays
        return (scores, percentiles) if scores[-1] >= 1 else (np.append(scores, 1.0), np.append(percentiles, 1.0))

    def _legacy_lookup(self, raw: Floats) -> Floats:
        """The legacy system's rule: the pair after the last one whose score is not above `raw`; `_exact_matches` handles
        scores that equal a pair's.
        """
        scores, percentiles = self._arrays
        after = np.searchsorted(scores, raw, side="right")
        last = np.maximum(after - 1, 0)
        out: Floats = np.where(
            scores[last] == raw, self._exact_matches[last], percentiles[np.minimum(after, len(scores) - 1)]
        )
        return out

    @cached_property
    def _exact_matches(self) -> Floats:
        """(n,) the percentile of raw scores that equal a pair's.

        The legacy system's bisection stops at the first such pair. Which one depends on the search, repeated here.
        """
        scores, percentiles = self._arrays
        low, high = np.zeros(len(scores), np.int64), np.full(len(scores), len(scores) - 1)
        for _ in range(len(scores).bit_length()):
            middle = np.minimum((low + high) // 2, len(scores) - 1)
            searching, at = low <= high, scores[middle]
            hit = searching & (at == scores)
            low = np.where(searching & (at <= scores), middle + 1, low)
            high = np.where(hit, middle, np.where(searching & (at > scores), middle - 1, high))
        out: Floats = percentiles[np.minimum(low, len(scores) - 1)]
        return out

    def pairs(self) -> list[list[float]]:
        """The map in the legacy system's form: 1000 pairs [score quantile at p, p]; an imported one is unchanged."""
        if self.rule == "legacy":
            return [list(pair) for pair in zip(self.scores, self.percentiles, strict=True)]
        levels = np.arange(QUANTILES) / QUANTILES
        quantiles = np.interp(levels, self.percentiles, self.scores)
        return [list(pair) for pair in zip(quantiles.tolist(), levels.tolist(), strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """The map as plain JSON values."""
        return {"rule": self.rule, "scores": list(self.scores), "percentiles": list(self.percentiles)}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote. Raises CalibrationError if it breaks a rule."""
        scores, percentiles = (tuple(float(value) for value in table[key]) for key in ("scores", "percentiles"))
        return cls(rule=table["rule"], scores=scores, percentiles=percentiles)


def risen(values: Sequence[float], rounding: float) -> tuple[float, ...]:
    """Raise values that decrease by at most `rounding` to the previous one; larger decreases are not changed."""
    result: list[float] = []
    for value in values:
        falls = bool(result) and 0 < result[-1] - value <= rounding
        result.append(result[-1] if falls else value)
    return tuple(result)


def as_finite_array(name: str, values: ArrayLike) -> Floats:
    """Numbers as float64. Raises CalibrationError if one is not finite."""
    numbers = np.asarray(values, np.float64)
    bad = np.count_nonzero(~np.isfinite(numbers))
    if bad:
        raise CalibrationError(f"{name} must be a finite number (got {bad} of {numbers.size} that are not)")
    return numbers


def _levels(n: int) -> Floats:
    """Shares of payments that get a knot: 0, 0.001, … and denser towards 1, down to a single payment of n."""
    decades = max(math.log10(n) - 2, 0.0)
    left = 10.0 ** -(2 + np.arange(math.ceil(decades * PER_DECADE) + 1) / PER_DECADE)
    return np.concatenate([np.arange(QUANTILES) / QUANTILES, 1 - left])


def _is_leap(share: Floats, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which knots follow a score that many payments share: that score becomes a knot as well."""
    return share[positions] - share[np.maximum(positions - 1, 0)] > 1 / QUANTILES
