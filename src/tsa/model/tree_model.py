"""The trees of a model with the columns that they read: payments with their histories in, log odds of fraud out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tsa.data.history import EventHistories
from tsa.data.store.store import EventStore
from tsa.data.tree_columns import TreeColumns
from tsa.errors import ModelError
from tsa.model.boosted_trees import BoostedTrees
from tsa.progress import Advance

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class TreeModel:
    """Trees and their columns."""

    columns: TreeColumns
    trees: BoostedTrees
    n_deep: int = 0
    """How many of the averaged models have deep trees."""

    def __post_init__(self) -> None:
        if self.trees.names != self.columns.names:
            raise ModelError(
                f"the trees must read the columns {list(self.columns.names)[:3]} … (got {list(self.trees.names)[:3]} …)"
            )

    @classmethod
    def read(cls, text: str, table: Mapping[str, Any]) -> Self:
        """Trees from their text, and what `to_dict` wrote. Raises ModelError, StoreError."""
        columns = TreeColumns.from_dict(table["columns"])
        trees = BoostedTrees(text=text, names=columns.names, shift=float(table["shift"]))
        return cls(columns=columns, trees=trees, n_deep=int(table.get("n_deep", 0)))

    def to_dict(self) -> dict[str, Any]:
        """What the trees' text does not hold, as plain JSON values."""
        return {"columns": self.columns.to_dict(), "shift": self.trees.shift, "n_deep": self.n_deep}

    def of_store(
        self, store: EventStore, rows: NDArray[np.int64], *, advance: Advance | None = None
    ) -> NDArray[np.float64]:
        """(R,) log odds of the events `rows` (R,) of a store."""
        parts = []
        for values in self.columns.parts(store, rows):
            parts.append(self.trees.log_odds(values))
            if advance:
                advance(len(values))
        return np.concatenate(parts) if parts else np.empty(0)

    def of_payments(self, seen: EventHistories, engineered: Array) -> NDArray[np.float64]:
        """(B,) log odds of B single payments with their histories."""
        return self.trees.log_odds(self.columns.of_payments(seen, engineered))
