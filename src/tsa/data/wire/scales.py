"""Apply all scalers of a group at once. For the few numbers of a request this is faster than one by one.

The result equals `ScalerGroup.encode`, which works on columns; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.encoding.scaler import LIMIT, MISSING, ImportedScaler, Scaler, ScalerGroup

Floats = NDArray[np.float64]


class VectorizedScaler:
    """The scalers of F features as arrays, and the default that replaces a missing value before scaling (NaN: stays
    missing).
    """

    def __init__(self, scaling: ScalerGroup, defaults: Sequence[float]) -> None:
        self._scaling = scaling
        self._defaults = np.array(defaults, np.float64)
        self._has_defaults = bool(np.isfinite(self._defaults).any())
        given = [scaler for scaler in scaling.scalers if isinstance(scaler, ImportedScaler)]
        self._all_given = bool(given) and len(given) == len(scaling.scalers)
        self._slope, self._offset, self._filled = (
            np.array([getattr(scaler, name) for scaler in given]) for name in ("slope", "offset", "default")
        )
        own = [scaler for scaler in scaling.scalers if isinstance(scaler, Scaler)]
        self._plain = len(own) == len(scaling.scalers) and all(scaler.scale != "quantile" for scaler in own)
        self._centre, self._width = (np.array([getattr(s, name) for s in own]) for name in ("centre", "width"))
        self._log, self._signed = (
            np.flatnonzero([scaler.transform == name for scaler in own]) for name in ("log1p", "signed_log1p")
        )
        self._marked = np.flatnonzero([scaler.had_missing for scaler in own])
        self._unmarked = np.flatnonzero([not scaler.had_missing for scaler in own])

    def encode(self, values: Floats) -> NDArray[np.float32]:
        """(m, F') float32 of raw values (m, F), NaN where missing. Raises DataError as `ScalerGroup.encode`."""
        if not values.shape[1]:
            return values.astype(np.float32)
        if self._has_defaults:
            values = np.where(np.isnan(values), self._defaults, values)
        if self._all_given:
            return self._as_given(values)
        return self._as_fitted(values) if self._plain else self._one_by_one(values)

    def _as_given(self, values: Floats) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            scaled = np.where(np.isnan(values), self._filled, values) * self._slope + self._offset
            narrow = scaled.astype(np.float32)
        return narrow if np.isfinite(narrow).all() else self._one_by_one(values)

    def _as_fitted(self, values: Floats) -> NDArray[np.float32]:
        missing, moved = np.isnan(values), values.copy()
        if len(self._signed):
            part = values[:, self._signed]
            moved[:, self._signed] = np.copysign(np.log1p(np.abs(part)), part)
        if len(self._log):
            part = values[:, self._log]
            if (part <= -1.0).any():
                return self._one_by_one(values)  # raises the error that names the value
            moved[:, self._log] = np.log1p(part)
        with np.errstate(over="ignore"):
            moved -= self._centre
            moved /= self._width
        scaled = np.minimum(np.maximum(moved, -LIMIT, out=moved), LIMIT, out=moved)
        scaled[missing] = MISSING
        marks: list[Any] = [missing[:, self._marked]]
        if len(self._unmarked):
            marks.append(missing[:, self._unmarked].any(1, keepdims=True))
        return np.concatenate([scaled, *marks], axis=1, dtype=np.float32, casting="same_kind")

    def _one_by_one(self, values: Floats) -> NDArray[np.float32]:
        import polars as pl

        names = [scaler.name for scaler in self._scaling.scalers]
        return self._scaling.encode(pl.DataFrame(values, schema=names) if names else pl.DataFrame(height=len(values)))
