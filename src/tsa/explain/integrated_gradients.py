"""Integrated gradients (Sundararajan, Taly and Yan 2017): attributions of the network's inputs to the log odds of fraud.

Uses Captum with Gauss-Legendre steps along an `InterpolationPath`, and refines segments whose attributions do not add up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsa.errors import DataError
from tsa.explain.path import InputSite, InterpolationPath
from tsa.optional_libraries import need

INITIAL_SEGMENTS = ((0.0, 1 / 16, 8), (1 / 16, 1.0, 14))
"""Start, end and steps of each segment of the path; enough for most payments. Use smaller steps near the baseline, where
attention shifts quickly to the history events."""
FURTHER_STEPS = 10
"""Steps of each part of a segment that is refined."""
FIRST_PART = 1 / 4
"""Position at which the first segment is split; all others are halved."""
MAX_LEGS = 32
RELATIVE_TOLERANCE = 0.005
"""Accepted sum of absolute residuals relative to the difference to explain; the documented limit is twice as large."""
ABSOLUTE_TOLERANCE = (
    4e-3  # log odds: below this difference, relative errors are not checked because of float32 precision
)


@dataclass(frozen=True)
class Attribution:
    """Attributions, and the log odds that they should add up to.

    at       per place a tensor of its shape, with vectors summed over their width D:
             events and gate (L, P), presence (L − 1), tokens (T), numbers (F + G); float64
    baseline log odds of the neutral payment without histories
    score    log odds of the payment
    steps    number of steps taken
    """

    at: dict[InputSite, Tensor]
    baseline: float
    score: float
    steps: int

    @property
    def total(self) -> float:
        """The difference to explain."""
        return self.score - self.baseline

    @property
    def residual(self) -> float:
        """The total minus the sum of the attributions."""
        return self.total - sum(float(values.sum()) for values in self.at.values())


@dataclass(frozen=True)
class Segment:
    """A segment [start, end] of the path from 0 to 1: mean gradients per place, and the residual."""

    start: float
    end: float
    slopes: tuple[Tensor, ...]
    residual: float


def attribute(passage: InterpolationPath, others: float = 0.0) -> Attribution:
    """Compute the attributions of a payment.

    The segment with the largest residual is bisected until the residuals are small, since the score may change sharply
    along the path.

    Args:
        others: What other parts of the model add to the difference to explain, on the scale of the network's log odds: the
            residual must be small compared with the difference of all parts together.

    Raises:
        ConfigError: If captum is not installed.
        DataError: If the score is not finite.
    """
    walk = PathIntegrator(passage)
    walk.measure(*(at for start, end, _ in INITIAL_SEGMENTS for at in (start, end)))
    baseline, score = walk.log_odds_at(0.0), walk.log_odds_at(1.0)
    if not (math.isfinite(score) and math.isfinite(baseline)):
        raise DataError(f"payments must get a number as score to be explained (got log odds of {score})")
    legs = [leg for start, end, steps in INITIAL_SEGMENTS for leg in walk.legs([start, end], steps)]
    enough = RELATIVE_TOLERANCE * max(abs(score - baseline + others), ABSOLUTE_TOLERANCE)
    while sum(abs(leg.residual) for leg in legs) > enough and len(legs) < MAX_LEGS:
        worst = max(legs, key=lambda leg: abs(leg.residual))
        cut = worst.start + (worst.end - worst.start) * (0.5 if worst.start else FIRST_PART)
        legs.remove(worst)
        legs += walk.legs([worst.start, cut, worst.end], FURTHER_STEPS)
    at = {
        place: _product([leg.slopes[k] for leg in legs], passage.way(place)) for k, place in enumerate(passage.places)
    }
    return Attribution(at, baseline, score, walk.steps)


class PathIntegrator:
    """Integrates along a path, and counts its steps."""

    def __init__(self, passage: InterpolationPath) -> None:
        self.passage, self.steps = passage, 0
        self._method = _integrated_gradients()(self._connected, multiply_by_inputs=False)
        self._heights: dict[float, float] = {}

    def _connected(self, *states: Tensor) -> Tensor:
        """(n,) the log odds, connected to every place in the autograd graph, even if a gate leaves out a history."""
        nothing = torch.stack([0.0 * state.flatten(1).sum(1) for state in states]).sum(0)
        return self.passage(*states) + nothing

    def log_odds_at(self, at: float) -> float:
        """The log odds at a position on the path."""
        self.measure(at)
        return self._heights[at]

    def measure(self, *shares: float) -> None:
        """Compute the log odds at several positions, if not known yet, in one pass of the network."""
        new = [at for at in dict.fromkeys(shares) if at not in self._heights]
        if new:
            with torch.no_grad():
                heights = self.passage(*self._states(new)).tolist()
            self._heights.update(zip(new, heights, strict=True))

    def legs(self, stops: Sequence[float], steps: int) -> list[Segment]:
        """Integrate from each of these positions to the next with the given steps, all in one pass of the network."""
        self.steps += steps * (len(stops) - 1)
        self.measure(*stops)
        ends = self._states(stops[1:]), self._states(stops[:-1])
        slopes = self._method.attribute(*ends, n_steps=steps, method="gausslegendre")
        pairs = enumerate(itertools.pairwise(stops))
        return [self._leg(start, end, [slope[at : at + 1] for slope in slopes]) for at, (start, end) in pairs]

    def _leg(self, start: float, end: float, mean_slopes: Sequence[Tensor]) -> Segment:
        slopes = tuple(slope * (end - start) for slope in mean_slopes)
        attributed = sum(
            float(_product([slope], self.passage.way(place)).sum())
            for place, slope in zip(self.passage.places, slopes, strict=True)
        )
        return Segment(start, end, slopes, self.log_odds_at(end) - self.log_odds_at(start) - attributed)

    def _states(self, shares: Sequence[float]) -> tuple[Tensor, ...]:
        """The interpolated value of each place at each position of the path: (n, …)."""
        ends = list(zip(self.passage.neutral, self.passage.actual, strict=True))
        # the end of the path equals the scored payment to the bit
        rows = [
            [actual if at == 1.0 else neutral + at * (actual - neutral) for neutral, actual in ends] for at in shares
        ]
        return tuple(torch.cat(values) for values in zip(*rows, strict=True))


def _product(slopes: Sequence[Tensor], way: Tensor) -> Tensor:
    """Σ gradients times difference, one number per vector; float64. The parts of a sum share its gradient."""
    slope = torch.stack([slope[0] for slope in slopes]).double().sum(0)
    way = way[0].double()
    product = (slope.unsqueeze(-2) if slope.ndim < way.ndim else slope) * way
    return product if product.ndim == 1 else product.sum(-1)


def need_captum() -> None:
    """Raise ConfigError if captum is not installed: better before a log is read than after."""
    need("explaining", "captum", extra="explain")


def _integrated_gradients() -> Any:
    need_captum()
    from captum.attr import IntegratedGradients

    return IntegratedGradients
