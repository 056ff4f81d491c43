"""Join what several parts of a model say of the same payments: one number from their log odds.

The weights are fitted on payments that none of the parts has learned from (stacking, Wolpert 1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from tsa.errors import ModelError

Floats = NDArray[np.float64]
PARTS = ("network", "trees")
"""In the order in which they are joined."""


@dataclass(frozen=True, kw_only=True)
class Joining:
    """log odds = intercept + Σ weight · log odds of the part. A part of weight 0 is not computed."""

    network: float
    trees: float
    intercept: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.network, self.trees)
        if not all(math.isfinite(value) for value in (*weights, self.intercept)):
            raise ModelError(f"weights and intercept must be finite (got {weights}, {self.intercept})")
        if min(weights) < 0 or max(weights) == 0:
            raise ModelError(f"weights must not be negative, and one must be above 0 (got {weights})")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that count."""
        return tuple(part for part in PARTS if getattr(self, part) > 0)

    def __call__(self, log_odds: Mapping[str, NDArray[Any]]) -> Floats:
        """(B,) joined log odds, from those (B,) of each part that counts."""
        # written out in one order, so that a payment's sum is the same to the bit in every batch
        joined = np.float64(self.intercept)
        for part in self.parts:
            joined = joined + getattr(self, part) * log_odds[part].astype(np.float64)
        return np.asarray(joined, np.float64)

    def to_dict(self) -> dict[str, float]:
        """As plain JSON values."""
        return {"network": self.network, "trees": self.trees, "intercept": self.intercept}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote. Raises ModelError."""
        try:
            return cls(**{name: float(table[name]) for name in ("network", "trees", "intercept")})
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"weights of the parts must be as this program writes it (got {error!r})") from error


ALONE = {
    "network": Joining(network=1.0, trees=0.0),
    "trees": Joining(network=0.0, trees=1.0),
}
MEAN = Joining(network=0.5, trees=0.5)
"""Where there are no payments to fit weights on: the plain mean of both."""
PENALTY = 100.0
"""Draws the weights towards each other: they differ by about 1 / sqrt(PENALTY) = 0.1 unless the payments say otherwise."""
ENOUGH_CASES = 250
"""With fewer payments of the rarer outcome the penalty falls with the square of their number: where frauds are few, one part is
often much better, and the weights may differ more."""


def raw_scores(log_odds: NDArray[Any]) -> NDArray[np.float32]:
    """(B,) raw scores of joined log odds."""
    scores: NDArray[np.float32] = expit(log_odds.astype(np.float64)).astype(np.float32)
    return scores


def fit_joining(log_odds: Mapping[str, NDArray[Any]], label: NDArray[Any], *, penalty: float | None = None) -> Joining:
    """Logistic regression of outcomes on the log odds of both parts, with weights that are not negative.

    The prior is that both parts count alike: the errors of two kinds of models differ, and payments of a short range say
    little about which of them will be better later (docs/concepts/design.md has measurements).

    Args:
        log_odds: (n,) of each part, of payments that neither has learned from.
        label: (n,) 1 fraud, 0 genuine; both must occur.
        penalty: Of the squared difference of the weights; None: `PENALTY`, or less where there are few frauds.

    Raises:
        ModelError: If only one outcome occurs, or all log odds are equal.
    """
    columns = np.column_stack([np.asarray(log_odds[part], np.float64) for part in PARTS])
    y = np.asarray(label, np.float64)
    width = columns.std(0)
    if not 0 < y.sum() < len(y) or not np.isfinite(width).all() or not (width > 0).all():
        raise ModelError(
            "weights of the parts need payments of both outcomes and scores that differ "
            f"(got {int(y.sum())} frauds of {len(y)}, deviations {width.tolist()})"
        )
    if penalty is None:
        penalty = PENALTY * min(1.0, min(y.sum(), len(y) - y.sum()) / ENOUGH_CASES) ** 2
    centre = columns.mean(0)
    x = (columns - centre) / width

    unlike = np.array([1.0, -1.0]) / width  # of the weights before standardising

    def loss(at: Floats) -> tuple[float, Floats]:
        eta = x @ at[:2] + at[2]
        residual = expit(eta) - y
        difference = at[:2] @ unlike
        value = float((np.logaddexp(0, eta) - y * eta).sum() + 0.5 * penalty * difference * difference)
        slope = np.append(x.T @ residual + penalty * difference * unlike, residual.sum())
        return value / len(y), slope / len(y)

    start = np.array([0.5, 0.5, math.log(y.mean() / (1 - y.mean()))])
    bounds = [(0.0, None), (0.0, None), (None, None)]
    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-10})
    weights = result.x[:2] / width
    if not np.isfinite(result.x).all() or weights.max() <= 0:
        raise ModelError("weights of the parts cannot be fitted: fraud does not score higher than genuine payments")
    intercept = float(result.x[2] - weights @ centre)
    return Joining(network=float(weights[0]), trees=float(weights[1]), intercept=intercept)
