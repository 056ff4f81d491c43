"""Payments as flat arrays, and functions to join, slice and sort them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, kw_only=True)
class SimulatedPayments:
    """n payments, each array (n): row numbers into the population, `seconds` since the start of the period.

    device −1: none known. kind 0: genuine, k: the k-th kind of fraud. Fractions of a second only order ties randomly.
    """

    customer: np.ndarray
    card: np.ndarray
    terminal: np.ndarray
    seconds: np.ndarray
    amount: np.ndarray
    channel: np.ndarray
    device: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, rows: np.ndarray | slice) -> SimulatedPayments:
        """The payments of the given rows, in that order."""
        return SimulatedPayments(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def by_time(self) -> SimulatedPayments:
        """All payments in time order."""
        return self.take(np.argsort(self.seconds, kind="stable"))

    def between(self, first: float, last: float) -> SimulatedPayments:
        """The payments in [first, last), of payments already in time order."""
        return self.take(slice(*np.searchsorted(self.seconds, [first, last])))

    @staticmethod
    def join(parts: Sequence[SimulatedPayments]) -> SimulatedPayments:
        """The concatenation of the parts."""
        names = [field.name for field in fields(SimulatedPayments)]
        return SimulatedPayments(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
