"""`Calibration`: maps from a raw score to a percentile and a probability, fitted after training.

A map that cannot be fitted is left out, with a reason: no probability is better than a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsa.calibration.percentile import PercentileMap, as_finite_array
from tsa.calibration.probability_fit import METHODS, fit_probability
from tsa.calibration.probability_maps import LogitMap, ProbabilityMap, read_probability
from tsa.errors import CalibrationError

VERSION = 2

Map = TypeVar("Map")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The two maps of a model's raw scores, each of which may be None. Call them with raw scores of any shape:
    `calibration.percentile(raw)`, `calibration.probability(raw)`, return float64 in [0, 1]."""

    percentile: PercentileMap | None = None
    probability: ProbabilityMap | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """Counts of the fitting data: `payments`, `labelled` ones, and `frauds`; empty if imported."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By missing map ("percentile", "probability"): why it is missing, and what it needs."""

    @classmethod
    def fit(
        cls,
        *,
        scores: ArrayLike,
        labels: ArrayLike,
        method: str = "bspline",
        sampling_rate_genuine: float | None = None,
    ) -> Self:
        """Fit both maps to the payments of the calibration range, which the model was not trained on.

        A map is left out, with a reason, if there are too few payments or they are too similar.

        Args:
            scores: (n,) raw scores in [0, 1].
            labels: (n,) 1 fraud, 0 genuine, -1 not known (used for the percentile only).
            method: "bspline", "isotonic", "platt", "beta"; or "sampling", which needs `sampling_rate_genuine` instead of
                labels.
            sampling_rate_genuine: The share of the genuine payments that training used.

        Raises:
            CalibrationError: For values out of bounds or an unknown method.
        """
        score, label = as_finite_array("calibration score", scores), np.asarray(labels)
        _check(score, label, method)
        known = label >= 0
        counts = {"payments": len(score), "labelled": int(known.sum()), "frauds": int((label == 1).sum())}
        reasons: dict[str, str] = {}

        def probability() -> ProbabilityMap:
            if method == "sampling":
                return LogitMap.sampling(sampling_rate_genuine)
            return fit_probability(score[known], label[known], method)

        return cls(
            percentile=_tried("percentile", lambda: PercentileMap.fit(score), reasons),
            probability=_tried("probability", probability, reasons),
            counts=counts,
            reasons=reasons,
        )

    @property
    def note(self) -> str | None:
        """A sentence on what is missing and why; None if nothing is."""
        lines = [f"There is no {name} score: {reason}." for name, reason in self.reasons.items()]
        return " ".join(lines) or None

    def columns(self, raw: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """The scores of raw scores (n,), by name, for each map."""
        maps = {"percentile": self.percentile, "probability": self.probability}
        return {name: calibrate(raw) for name, calibrate in maps.items() if calibrate is not None}

    def to_dict(self) -> dict[str, Any]:
        """The calibration as plain JSON values."""
        return {
            "version": VERSION,
            "percentile": None if self.percentile is None else self.percentile.to_dict(),
            "probability": None if self.probability is None else self.probability.to_dict(),
            "counts": dict(self.counts),
            "reasons": dict(self.reasons),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote. Raises CalibrationError for anything else."""
        try:
            if table["version"] != VERSION:
                actual = f"version={table['version']!r}"
                raise CalibrationError(f"calibration: this program reads version {VERSION} (got {actual})")
            percentile, probability = table["percentile"], table["probability"]
            return cls(
                percentile=None if percentile is None else PercentileMap.from_dict(percentile),
                probability=None if probability is None else read_probability(probability),
                counts={str(name): int(count) for name, count in table["counts"].items()},
                reasons={str(name): str(reason) for name, reason in table["reasons"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(f"calibration must be as this program writes it (got {error!r})") from error


def _check(score: NDArray[np.float64], label: NDArray[Any], method: str) -> None:
    """Reject input that no map can be fitted to."""
    if score.ndim != 1 or score.shape != label.shape:
        raise CalibrationError(f"scores and labels must both have shape (n,) (got {score.shape}, {label.shape})")
    if not ((score >= 0) & (score <= 1)).all():
        raise CalibrationError(f"calibration scores must lie in [0, 1] (got {score.min()} to {score.max()})")
    if not np.isin(label, (-1, 0, 1)).all():
        raise CalibrationError(f"calibration labels must be 1, 0 or -1 (got {np.unique(label)[:5]})")
    if method not in (*METHODS, "sampling"):
        known = ", ".join((*METHODS, "sampling"))
        raise CalibrationError(f"calibration method must be one of {known} (got {method!r})")


def _tried(name: str, fit: Callable[[], Map], reasons: dict[str, str]) -> Map | None:
    try:
        return fit()
    except CalibrationError as error:
        reasons[name] = str(error)
        return None
