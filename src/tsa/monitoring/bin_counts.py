"""Bins for the values of a feature or for scores, and counts per bin and window.

Numbers get bins of equal mass in the reference; categorical and calendar features get one bin per known value.
Missing and unknown values are counted separately.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tsa.evaluation.metrics.psi import bin_of
from tsa.text import shorten

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TICK = 8
"""Maximum number of letters of an axis label."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A feature and its bins: inner `edges` (a bin includes its lower edge) or `values`."""

    name: str
    kind: Literal["numerical", "categorical", "calendar"]
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()

    @property
    def bins(self) -> int:
        """B."""
        return len(self.edges) + 1 if self.kind == "numerical" else len(self.values)

    def labels(self) -> list[str]:
        """(B,) a description of each bin."""
        if self.kind != "numerical":
            return list(self.values)
        if not self.edges:
            return ["all"]
        shown = [f"{edge:.6g}" for edge in self.edges]
        inner = [
            low if math.nextafter(a, math.inf) == b else f"{low} to {high}"
            for a, b, low, high in zip(self.edges, self.edges[1:], shown, shown[1:], strict=False)
        ]
        return [f"below {shown[0]}", *inner, f"{shown[-1]} or more"]

    def ticks(self) -> list[str]:
        """(B,) short axis labels: the lower edge of a bin of numbers."""
        if self.name == "day_of_week" and self.kind == "calendar":
            return ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
        if self.kind != "numerical":
            return [shorten(value, TICK, "…") for value in self.values]
        return ["", *(f"{edge:.4g}" for edge in self.edges)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Payments of W windows: known (W, B) by bin, without a value (W,), with an unknown one (W,)."""

    known: Integers
    missing: Integers
    unknown: Integers
    hours: Integers | None = None
    """(W, B) of a calendar feature: the hours of each window that have each value."""

    @property
    def n(self) -> Integers:
        """(W,) all payments."""
        total: Integers = self.known.sum(1) + self.missing + self.unknown
        return total

    def total(self) -> Counts:
        """The sum over all windows."""
        hours = None if self.hours is None else self.hours.sum(0, keepdims=True)
        counts = {name: getattr(self, name).sum(0, keepdims=True) for name in ("known", "missing", "unknown")}
        return Counts(**counts, hours=hours)

    def window(self, at: int) -> Counts:
        """One window."""
        hours = None if self.hours is None else self.hours[at : at + 1]
        counts = {name: getattr(self, name)[at : at + 1] for name in ("known", "missing", "unknown")}
        return Counts(**counts, hours=hours)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        names = ("known", "missing", "unknown", "hours")
        return {name: value.tolist() for name in names if (value := getattr(self, name)) is not None}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote."""
        return cls(**{name: np.array(values, np.int64) for name, values in table.items()})


def count_numbers(values: Floats, edges: tuple[float, ...], window: Integers, windows: int) -> Counts:
    """Counts of values (n,), NaN where missing, by bin and window (n,)."""
    missing = np.isnan(values)
    bins = bin_of(values[~missing], edges)
    return Counts(
        known=table(window[~missing], bins, windows, len(edges) + 1),
        missing=np.bincount(window[missing], minlength=windows),
        unknown=np.zeros(windows, np.int64),
    )


def table(window: Integers, bins: Integers, windows: int, size: int) -> Integers:
    """(W, B) counts of each pair of window and bin."""
    return np.bincount(window * size + bins, minlength=windows * size).reshape(windows, size)
