"""`ScoredPayments`: the labels, scores, times and codes that every metric is computed from, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class ScoredPayments:
    """n payments whose outcome is known, each with a score (higher: more likely fraud). Validated on creation.

    label (n) 0 genuine, 1 fraud; score (n) finite; time_seconds (n) seconds since the epoch, UTC.
    amount (n) or None: missing (NaN) and negative amounts have weight 0 in the value-weighted metrics.
    entity (n) or None: code >= 0 of the card or customer, -1 for none.
    segments: column -> (n) str (None: missing); history_length: history -> (n) events, the current one included.
    """

    label: Array
    score: Array
    time_seconds: Array
    amount: Array | None = None
    entity: Array | None = None
    segments: Mapping[str, Array] = field(default_factory=dict)
    history_length: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = self.label.shape
        if len(size) != 1:
            raise DataError(f"label must have one dimension (got label.shape={size})")
        for name, values in self._columns().items():
            if values.shape != size:
                raise DataError(f"{name} must have one value per label (got shape={values.shape}, label.shape={size})")
        _all_hold("label", self.label, (self.label == 0) | (self.label == 1), "be 0 (genuine) or 1 (fraud)")
        _all_hold("score", self.score, np.isfinite(self.score), "be finite")
        _all_hold("time_seconds", self.time_seconds, np.isfinite(self.time_seconds), "be finite")
        if self.amount is not None:
            _all_hold("amount", self.amount, ~np.isinf(self.amount), "not be infinite")
        if self.entity is not None:
            if not np.issubdtype(self.entity.dtype, np.integer):
                raise DataError(f"entity must be integers (got dtype={self.entity.dtype})")
            _all_hold("entity", self.entity, self.entity >= -1, "be a code >= 0, or -1 for none")

    def __len__(self) -> int:
        return len(self.label)

    def _columns(self) -> dict[str, Array]:
        optional = {"amount": self.amount, "entity": self.entity}
        columns = {"score": self.score, "time_seconds": self.time_seconds}
        columns |= {name: values for name, values in optional.items() if values is not None}
        columns |= {f"segments[{name!r}]": values for name, values in self.segments.items()}
        return columns | {f"history_length[{name!r}]": values for name, values in self.history_length.items()}


def _all_hold(name: str, values: Array, good: NDArray[np.bool_], rule: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        wrong = int(len(good) - np.count_nonzero(good))
        raise DataError(f"{name} must {rule} (got {name}[{row}]={values[row]} ({wrong} of {len(good)} rows))")
