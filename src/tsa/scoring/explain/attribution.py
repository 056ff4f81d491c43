"""Integrated gradients along a passage: how much each place of the network's input adds to the log odds of fraud.

Captum's integrated gradients (Sundararajan, Taly and Yan 2017) on Gauss-Legendre steps, and more of them until what is
attributed adds up. Knows passages; not features, payments or sentences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from tsa.errors import ConfigError, DataError
from tsa.scoring.explain.passage import Passage, Place

STEPS = (24, 48, 96, 192)
"""How many steps are taken, the next number wherever attributions do not add up."""
GOOD_ENOUGH = 0.005
"""A residual of this share of the difference to explain is let pass; what is promised is twice as much."""
NOTHING = 1e-3  # log odds: below this a difference is too small to be told in shares


@dataclass(frozen=True)
class Attribution:
    """What was attributed, and to what it should add up.

    at       per place, a tensor of the form that the place has, per vector summed over its width D:
             events and gate (L, P), presence (L − 1), tokens (T), numbers (F + G); float64
    baseline log odds of the neutral payment without histories
    score    log odds of the payment
    steps    that were needed
    """

    at: dict[Place, Tensor]
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


def attribute(passage: Passage) -> Attribution:
    """The attributions of a payment. ConfigError where captum is not installed, DataError where it has no score."""
    method = _integrated_gradients()(passage, multiply_by_inputs=False)
    with torch.no_grad():
        baseline, score = (float(passage(*values)[0]) for values in (passage.neutral, passage.actual))
    if not (math.isfinite(score) and math.isfinite(baseline)):
        raise DataError(f"payments must get a number as score to be explained, however: log odds of {score}")
    for steps in STEPS:
        slopes = method.attribute(passage.actual, passage.neutral, n_steps=steps, method="gausslegendre")
        at = {place: _product(slope, passage.way(place)) for place, slope in zip(passage.places, slopes, strict=True)}
        found = Attribution(at, baseline, score, steps)
        if abs(found.residual) <= GOOD_ENOUGH * max(abs(found.total), NOTHING):
            break
    return found


def _product(slope: Tensor, way: Tensor) -> Tensor:
    """Mean slope times way, vectors to one number each: the parts of a sum share its slope."""
    way = way[0].double()
    slope = slope[0].double()
    if slope.ndim < way.ndim:
        slope = slope.unsqueeze(-2)
    product = slope * way
    return product if product.ndim == 1 else product.sum(-1)


def need_captum() -> None:
    """Raise ConfigError where captum is not installed: better before a log is read than after."""
    if find_spec("captum") is None:
        raise ConfigError("explaining needs captum, which is not installed: pip install 'tsa-fraud[explain]'")


def _integrated_gradients() -> Any:
    need_captum()
    from captum.attr import IntegratedGradients

    return IntegratedGradients
