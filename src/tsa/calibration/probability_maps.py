"""Monotone maps from a raw score to the probability of fraud. They are fitted in `tsa.calibration.probability_fit`.

Four forms: B-spline on the logit, steps (isotonic), linear on the logits (Platt, beta calibration), and the correction
of the odds for genuine payments that training left out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline

from tsa.calibration.percentile import as_finite_array, risen
from tsa.errors import CalibrationError
from tsa.text import truncate_repr

Floats = NDArray[np.float64]

CERTAIN_ETA = 25.0
"""Logit above which the B-spline's probability is 1."""

ROUNDING = 1e-6
"""Tolerated decrease of coefficients and knots of an imported B-spline, due to rounding in its fit and its file."""

EPSILON = 1e-12
"""Raw scores are clipped to this distance from 0 and 1 before taking the logit."""

TIE_BREAK_SLOPE = 1e-6
"""Share of the raw score added to a step function, so that constant steps preserve the order of the scores."""


class ProbabilityMap(ABC):
    """From raw scores to probabilities in [0, 1]."""

    method: str
    """How it was fitted: a key of `FORMS`."""

    def __call__(self, raw: ArrayLike) -> Floats:
        """Probabilities of raw scores, of any shape, as float64. Raises CalibrationError for a score that is not finite."""
        return self._of(as_finite_array("raw score", raw))

    @abstractmethod
    def _of(self, raw: Floats) -> Floats:
        """Of finite scores."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The map as plain JSON values, its method among them."""


@dataclass(frozen=True)
class BSplineMap(ProbabilityMap):
    """logit(p) = a cubic B-spline of the raw score on [0, 1] with ascending coefficients; 0 for scores ≤ 0, 1 for ≥ 1.

    The legacy system's form: knots with boundary repeats, as many coefficients as knots less degree less 1.
    """

    knots: tuple[float, ...]
    coefficients: tuple[float, ...]
    degree: int = 3
    method: str = field(default="bspline", init=False)

    def __post_init__(self) -> None:
        expected = len(self.knots) - self.degree - 1
        if self.degree != 3 or len(self.coefficients) != expected or expected < 4:
            sizes = f"degree={self.degree}, {len(self.knots)} knots, {len(self.coefficients)} coefficients"
            raise CalibrationError(f"a B-spline needs degree 3 and as many coefficients as knots less 4 (got {sizes})")
        for name, values in (("knots", self.knots), ("coefficients", self.coefficients)):
            bad = next((i for i, v in enumerate(values) if not math.isfinite(v) or (i and v < values[i - 1])), None)
            if bad is not None:
                raise CalibrationError(f"B-spline {name} must not fall (got {values[bad]!r} at {bad})")
        if not (self.knots[3] == 0 and self.knots[-4] == 1 and self.knots[0] == 0 and self.knots[-1] == 1):
            raise CalibrationError("B-spline knots must begin with four 0 and end with four 1 (they do not)")

    def _of(self, raw: Floats) -> Floats:
        inside = np.clip(raw, 0.0, 1.0)
        eta = self._spline(inside)
        grown = np.exp(np.minimum(eta, CERTAIN_ETA))
        of_eta = np.where(eta > CERTAIN_ETA, 1.0, grown / (1 + grown))
        out: Floats = np.where(raw <= 0, 0.0, np.where(raw >= 1, 1.0, of_eta))
        return out

    @cached_property
    def _spline(self) -> BSpline:
        return BSpline(np.array(self.knots), np.array(self.coefficients), self.degree)

    @classmethod
    def from_legacy(cls, table: Mapping[str, Any]) -> Self:
        """The map in the legacy system's `bspline_parameters.json`. Raises CalibrationError for a failed or invalid fit."""
        if table.get("status", "Success") != "Success":
            raise CalibrationError(
                f"B-spline status must be 'Success' (got {truncate_repr(table['status'])}): remove the file of a failed fit, and "
                "fit probabilities with `tsa calibrate`"
            )
        knots, coefficients = (risen([float(v) for v in table[key]], ROUNDING) for key in ("knots", "coefficients"))
        return cls(knots=knots, coefficients=coefficients, degree=int(table["degree"]))

    def to_legacy(self) -> dict[str, Any]:
        """The content of a `bspline_parameters.json`."""
        table = {"knots": list(self.knots), "coefficients": list(self.coefficients)}
        return {**table, "degree": self.degree, "status": "Success"}

    def to_dict(self) -> dict[str, Any]:
        """The map as plain JSON values."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        knots, coefficients = (tuple(float(value) for value in table[key]) for key in ("knots", "coefficients"))
        return cls(knots=knots, coefficients=coefficients, degree=int(table["degree"]))


@dataclass(frozen=True)
class IsotonicMap(ProbabilityMap):
    """Isotonic regression: ascending steps joined by lines, with slope `TIE_BREAK_SLOPE` so that scores stay distinct."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    method: str = field(default="isotonic", init=False)

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.probabilities):
            raise CalibrationError("steps need as many probabilities as scores (the numbers differ)")
        for name, values in (("scores", self.scores), ("probabilities", self.probabilities)):
            if any(not 0 <= value <= 1 for value in values) or list(values) != sorted(values):
                raise CalibrationError(f"{name} of steps must increase within [0, 1] (they do not)")

    def _of(self, raw: Floats) -> Floats:
        inside = np.clip(raw, 0.0, 1.0)
        steps = np.interp(inside, np.array(self.scores), np.array(self.probabilities))
        out: Floats = (1 - TIE_BREAK_SLOPE) * steps + TIE_BREAK_SLOPE * inside
        return out

    def to_dict(self) -> dict[str, Any]:
        """The map as plain JSON values."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        scores, probabilities = (tuple(float(value) for value in table[key]) for key in ("scores", "probabilities"))
        return cls(scores=scores, probabilities=probabilities)


@dataclass(frozen=True)
class LogitMap(ProbabilityMap):
    """logit(p) = a · ln(s) − b · ln(1 − s) + c.

    "platt": a = b (Platt 1999, on the logit of the score); "beta": separate a and b (Kull et al. 2017); "sampling": a = b = 1
    and c = ln(share of the genuine payments that was trained on), which corrects the odds for sampling.
    """

    method: Literal["platt", "beta", "sampling"]
    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        if self.method not in ("platt", "beta", "sampling"):
            raise CalibrationError(f"method must be platt, beta or sampling (got {self.method!r})")
        if not (all(map(math.isfinite, (self.a, self.b, self.c))) and self.a >= 0 and self.b >= 0 < self.a + self.b):
            actual = f"a={self.a}, b={self.b}, c={self.c}"
            raise CalibrationError(f"{self.method}: a and b must not be below 0, nor both 0 (got {actual})")

    @classmethod
    def sampling(cls, sampling_rate_genuine: float | None) -> Self:
        """The correction for a known share of genuine payments used in training, in (0, 1]. Raises CalibrationError."""
        if sampling_rate_genuine is None or not 0 < sampling_rate_genuine <= 1:
            raise CalibrationError(f"sampling_rate_genuine must lie in (0, 1] (got {sampling_rate_genuine})")
        return cls("sampling", 1.0, 1.0, math.log(sampling_rate_genuine))

    def _of(self, raw: Floats) -> Floats:
        inside = np.clip(raw, EPSILON, 1 - EPSILON)
        eta = self.a * np.log(inside) - self.b * np.log1p(-inside) + self.c
        out: Floats = np.where(eta >= 0, 1.0, np.exp(np.minimum(eta, 0.0))) / (1 + np.exp(-np.abs(eta)))
        return out

    def to_dict(self) -> dict[str, Any]:
        """The map as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(table["method"], *(float(table[key]) for key in ("a", "b", "c")))


FORMS: dict[str, type[BSplineMap] | type[IsotonicMap] | type[LogitMap]] = {
    "bspline": BSplineMap,
    "isotonic": IsotonicMap,
    "platt": LogitMap,
    "beta": LogitMap,
    "sampling": LogitMap,
}


def read_probability(table: Mapping[str, Any]) -> ProbabilityMap:
    """Read a map of any form that its `to_dict` wrote. Raises CalibrationError if it breaks a rule."""
    if table["method"] not in FORMS:
        raise CalibrationError(f"probability method must be one of {', '.join(FORMS)} (got {table['method']!r})")
    return FORMS[table["method"]].from_dict(table)


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}
