"""Integrated gradients along a passage: how much each place of the network's input adds to the log odds of fraud.

Captum's integrated gradients (Sundararajan, Taly and Yan 2017) on Gauss-Legendre steps, more of them where what is
attributed does not add up. Knows passages; not features, payments or sentences.
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
from tsa.optional import need

INITIAL_SEGMENTS = ((0.0, 1 / 16, 8), (1 / 16, 1.0, 14))
"""From, to and steps along the whole way: enough for most payments. Next to the neutral payment steps are small: attention turns
there from the current event alone to all events that begin to be there."""
FURTHER_STEPS = 10
"""Steps along each part of a leg that was gone over too quickly."""
FIRST_PART = 1 / 4
"""Where the leg that begins at the neutral payment is cut; all others are halved."""
MAX_LEGS = 32
RELATIVE_TOLERANCE = 0.005
"""Residuals that add up, signs apart, to this share of the difference to explain are let pass; twice as much is promised."""
ABSOLUTE_TOLERANCE = 4e-3  # log odds: of a smaller difference no share is asked for, float32 would not tell it


@dataclass(frozen=True)
class Attribution:
    """What was attributed, and to what it should add up.

    at       per place, a tensor of the form that the place has, per vector summed over its width D:
             events and gate (L, P), presence (L − 1), tokens (T), numbers (F + G); float64
    baseline log odds of the neutral payment without histories
    score    log odds of the payment
    steps    that were taken
    """

    at: dict[InputSite, Tensor]
    baseline: float
    score: float
    steps: int

    @property
    def total(self) -> float:
        """What there is to explain."""
        return self.score - self.baseline

    @property
    def residual(self) -> float:
        """What is left over of the total."""
        return self.total - sum(float(values.sum()) for values in self.at.values())


@dataclass(frozen=True)
class Segment:
    """A stretch [start, end] of the way from 0 to 1: mean slopes per place, and what they miss the difference by."""

    start: float
    end: float
    slopes: tuple[Tensor, ...]
    residual: float


def attribute(passage: InterpolationPath) -> Attribution:
    """The attributions of a payment. ConfigError where captum is not installed, DataError where it has no score.

    Where the score turns sharply on the way, equal steps miss it: the leg that misses most is cut in two, again and again.
    """
    walk = PathIntegrator(passage)
    walk.measure(*(at for start, end, _ in INITIAL_SEGMENTS for at in (start, end)))
    baseline, score = walk.log_odds_at(0.0), walk.log_odds_at(1.0)
    if not (math.isfinite(score) and math.isfinite(baseline)):
        raise DataError(f"payments must get a number as score to be explained (got log odds of {score})")
    legs = [leg for start, end, steps in INITIAL_SEGMENTS for leg in walk.legs([start, end], steps)]
    enough = RELATIVE_TOLERANCE * max(abs(score - baseline), ABSOLUTE_TOLERANCE)
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
    """Goes along a passage, and counts its steps."""

    def __init__(self, passage: InterpolationPath) -> None:
        self.passage, self.steps = passage, 0
        self._method = _integrated_gradients()(self._connected, multiply_by_inputs=False)
        self._heights: dict[float, float] = {}

    def _connected(self, *states: Tensor) -> Tensor:
        """(n,) the log odds, which depend on every place in form: a gate leaves out a history that matters to no payment."""
        nothing = torch.stack([0.0 * state.flatten(1).sum(1) for state in states]).sum(0)
        return self.passage(*states) + nothing

    def log_odds_at(self, at: float) -> float:
        """The log odds at a share of the way."""
        self.measure(at)
        return self._heights[at]

    def measure(self, *shares: float) -> None:
        """The heights at several shares of the way, those that are not known yet, in one pass of the network."""
        new = [at for at in dict.fromkeys(shares) if at not in self._heights]
        if new:
            with torch.no_grad():
                heights = self.passage(*self._states(new)).tolist()
            self._heights.update(zip(new, heights, strict=True))

    def legs(self, stops: Sequence[float], steps: int) -> list[Segment]:
        """From each of these shares of the way to the next, so many steps each, all in one pass: a pass costs more than steps."""
        self.steps += steps * (len(stops) - 1)
        self.measure(*stops)
        ends = self._states(stops[1:]), self._states(stops[:-1])
        slopes = self._method.attribute(*ends, n_steps=steps, method="gausslegendre")
        pairs = enumerate(itertools.pairwise(stops))
        return [self._leg(start, end, [slope[at : at + 1] for slope in slopes]) for at, (start, end) in pairs]

    def _leg(self, start: float, end: float, mean_slopes: Sequence[Tensor]) -> Segment:
        slopes = tuple(slope * (end - start) for slope in mean_slopes)
        told = sum(
            float(_product([slope], self.passage.way(place)).sum())
            for place, slope in zip(self.passage.places, slopes, strict=True)
        )
        return Segment(start, end, slopes, self.log_odds_at(end) - self.log_odds_at(start) - told)

    def _states(self, shares: Sequence[float]) -> tuple[Tensor, ...]:
        """Per place what the payment looks like there, at each share of the way: (n, …)."""
        ends = list(zip(self.passage.neutral, self.passage.actual, strict=True))
        # the actual end is what was scored, to the bit
        rows = [
            [actual if at == 1.0 else neutral + at * (actual - neutral) for neutral, actual in ends] for at in shares
        ]
        return tuple(torch.cat(values) for values in zip(*rows, strict=True))


def _product(slopes: Sequence[Tensor], way: Tensor) -> Tensor:
    """Σ slopes times way, vectors to one number each; float64. The parts of a sum share its slope."""
    slope = torch.stack([slope[0] for slope in slopes]).double().sum(0)
    way = way[0].double()
    product = (slope.unsqueeze(-2) if slope.ndim < way.ndim else slope) * way
    return product if product.ndim == 1 else product.sum(-1)


def need_captum() -> None:
    """Raise ConfigError where captum is not installed: better before a log is read than after."""
    need("explaining", "captum", extra="explain")


def _integrated_gradients() -> Any:
    need_captum()
    from captum.attr import IntegratedGradients

    return IntegratedGradients
