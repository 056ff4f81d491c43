"""Scalers: transform and scale numerical features as fitted on training rows, and mark missing values.

A missing value becomes 0, and a 0/1 indicator column marks it. A feature with missing values in training has its own
indicator; all others share one, which the model has not learned, so a warning is logged. Computed in float64,
returned as float32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.errors import DataError

MISSING = 0.0
"""The scaled value of a missing one."""

LIMIT = 1e6
"""Scaled values are clipped to ±LIMIT (a million widths), so that float32 stays finite."""

FLOAT32_MAX = float(np.finfo(np.float32).max)

Float64 = NDArray[np.float64]

Domain = tuple[float, float]
"""Open interval of the raw numbers that can be scaled."""

EVERYTHING = (-math.inf, math.inf)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scaler:
    """One numerical feature's transform and scale.

    minmax and standard: (x - centre) / width, not clipped to the training range; quantile: the share of training values
    below x, in [0, 1], interpolated between `knots`.
    """

    name: str
    transform: Literal["none", "log1p", "signed_log1p"]
    scale: Literal["minmax", "standard", "quantile"]
    had_missing: bool
    """Whether values were missing in training: then the feature has its own missing-value indicator."""
    centre: float = 0.0
    width: float = 1.0
    knots: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()

    @property
    def domain(self) -> Domain:
        """The numbers that its transform accepts."""
        return domain_of(self.transform)

    def encode(self, values: Float64) -> Float64:
        """(n,) scaled values of raw ones (n,), NaN where missing. Raises DataError for a value outside the domain of
        log1p.
        """
        moved = transformed(self.name, self.transform, values)
        if self.scale == "quantile":
            scaled = np.interp(moved, self.knots, self.levels) if self.knots else np.zeros_like(moved)
        else:
            with np.errstate(over="ignore"):
                scaled = np.clip((moved - self.centre) / self.width, -LIMIT, LIMIT)
        scaled[np.isnan(values)] = MISSING
        return scaled

    def to_dict(self) -> dict[str, Any]:
        """The scaler as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The scaler that `to_dict` wrote."""
        return cls(**{**table, "knots": tuple(table["knots"]), "levels": tuple(table["levels"])})


@dataclass(frozen=True, kw_only=True)
class ImportedScaler:
    """One numerical feature as another system scaled it: x · slope + offset; a missing value counts as `default`."""

    name: str
    slope: float
    offset: float
    default: float

    had_missing = False

    @property
    def domain(self) -> Domain:
        """The numbers that fit float32 after scaling."""
        if self.slope == 0.0:
            return EVERYTHING
        low, high = sorted((sign * FLOAT32_MAX - self.offset) / self.slope for sign in (-1.0, 1.0))
        return low, high

    def encode(self, values: Float64) -> Float64:
        """(n,) scaled values of raw ones (n,), NaN where missing. Raises DataError for one that overflows float32."""
        filled = np.where(np.isnan(values), self.default, values)
        with np.errstate(over="ignore"):
            scaled: Float64 = filled * self.slope + self.offset
        outside = np.abs(scaled) > FLOAT32_MAX
        if outside.any():
            shown = f"{filled[outside][0]} (and {outside.sum() - 1} more)"
            raise DataError(f"numerical feature {self.name!r} must fit float32 when scaled (got {shown})")
        return scaled

    def to_dict(self) -> dict[str, Any]:
        """The scaler as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The scaler that `to_dict` wrote."""
        return cls(**table)


def domain_of(transform: str) -> Domain:
    """The numbers that a transform accepts. Raw numbers are stored as float32, too, so they must fit it."""
    return (-1.0 if transform == "log1p" else -FLOAT32_MAX), FLOAT32_MAX


def read_scaler(table: Mapping[str, Any]) -> Scaler | ImportedScaler:
    """The scaler, of either kind, that its `to_dict` wrote."""
    return ImportedScaler.from_dict(table) if "slope" in table else Scaler.from_dict(table)


@dataclass(frozen=True)
class ScalerGroup:
    """A group of numerical features: scaled columns in the market's order, then the missing-value indicators."""

    scalers: tuple[Scaler | ImportedScaler, ...]

    @property
    def n_missing_indicators(self) -> int:
        """Number of missing-value indicators, the last of the F columns."""
        return len(self.names) - len(self.scalers)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the F columns."""
        marked = [f"{s.name} is missing" for s in self.scalers if s.had_missing]
        unmarked = [s for s in self.scalers if isinstance(s, Scaler) and not s.had_missing]
        indicator = ["another value is missing"] if unmarked else []
        return (*(s.name for s in self.scalers), *marked, *indicator)

    def encode(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """(n, F) float32 of n rows. Raises DataError for an absent column or a value outside a transform's domain."""
        out = np.zeros((len(frame), len(self.names)), np.float32)
        own = len(self.scalers)
        for column, scaler in enumerate(self.scalers):
            values = float_column(frame, scaler.name)
            out[:, column] = scaler.encode(values)
            if isinstance(scaler, ImportedScaler):
                continue
            missing = np.isnan(values)
            if scaler.had_missing:
                out[:, own] = missing
                own += 1
            elif missing.any():
                out[missing, -1] = 1.0
                _log.warning("%s: %d rows have no value; no training row lacked one", scaler.name, missing.sum())
        return out


def float_column(frame: pl.DataFrame, name: str) -> Float64:
    """(n,) a column of the frame, NaN where missing. Raises DataError if it is absent, not numeric, or infinite."""
    if name not in frame.columns:
        raise DataError(f"numerical feature {name!r} must be a column of the rows (got {sorted(frame.columns)})")
    column = frame[name]
    if not column.dtype.is_numeric() and column.dtype != pl.Null:
        raise DataError(f"numerical feature {name!r} must be of a numeric type (got {column.dtype})")
    values = column.cast(pl.Float64).to_numpy()
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(f"numerical feature {name!r} must be finite, but {infinite.sum()} rows are infinite")
    return values


def transformed(name: str, transform: str, values: Float64) -> Float64:
    """log1p is undefined at -1 and below. Such a number is refused and not clipped, since the feature was declared
    without it.
    """
    if transform == "none":
        return values.copy()
    if transform == "signed_log1p":
        return np.copysign(np.log1p(np.abs(values)), values)
    bad = values <= -1.0
    if bad.any():
        shown = f"{values[bad][0]} (and {bad.sum() - 1} more)"
        raise DataError(
            f"numerical feature {name!r} must be above -1 for log1p (got {shown}); "
            'use transform = "signed_log1p" for a feature with negative values'
        )
    return np.log1p(values)
