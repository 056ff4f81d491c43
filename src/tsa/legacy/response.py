"""The legacy endpoint's response, byte for byte: three scores as texts in positional decimals."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tsa.calibration.calibration import Calibration
from tsa.calibration.percentile import as_finite_array

CONTENT_TYPE = "application/json"


def legacy_response(raw: ArrayLike, calibration: Calibration) -> dict[str, list[dict[str, str]]]:
    """`{"predictions": [{"score-percentile": …, "legacy-score": …, "ProbabilityScore": …}, …]}` of raw scores (n,).

    A score without a map is left out.

    Raises:
        CalibrationError: If a raw score is not a number.
    """
    values = np.atleast_1d(as_finite_array("raw score", raw))
    scores = calibration.columns(values)
    predictions = []
    for at, score in enumerate(values.tolist()):
        response = {"legacy-score": positional(score)}
        if "percentile" in scores:
            response = {"score-percentile": _calibrated(score, float(scores["percentile"][at])), **response}
        if "probability" in scores:
            response["ProbabilityScore"] = _calibrated(score, float(scores["probability"][at]))
        predictions.append(response)
    return {"predictions": predictions}


def positional(value: float) -> str:
    """The shortest decimal that parses to the same float64, without an exponent: 0.00001, 0.0, 1.0."""
    return np.format_float_positional(value, trim="0")


def _calibrated(raw: float, value: float) -> str:
    """0 and 1 have no fraction if they are not values of a map but lie outside it."""
    is_outside = raw <= 0 or raw >= 1 or value >= 1
    return str(round(value)) if is_outside else positional(value)
