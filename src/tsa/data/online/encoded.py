"""Encoded payments, and the rows of a request as read: valid payments, and the violations of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tsa.data.values import RuleViolation

Result = TypeVar("Result")

EVENT_ARRAYS = (
    "time_seconds",
    "categorical",
    "numerical",
    "tokens",
    "raw_numerical",
    "label",
    "known_at_seconds",
)
"""The arrays that payments and the events of histories have in common."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedPayments:
    """B encoded payments."""

    ids: tuple[str, ...]
    """As texts, or as pseudonyms where the market asks for them."""
    time_seconds: NDArray[np.float64]
    """(B,)"""
    keys: Mapping[str, tuple[str | None, ...]]
    """By view of a history (`Market.views`): the key of each payment; None: no key, so no history."""
    categorical: NDArray[np.int32]
    """(B, C)"""
    numerical: NDArray[np.float32]
    """(B, F)"""
    engineered: NDArray[np.float32]
    """(B, G)"""
    tokens: NDArray[np.uint32]
    """(B, S) numbers for the texts of `tsa.data.raw_values.token_columns`."""
    raw_numerical: NDArray[np.float32]
    """(B, F') numerical features as they are, NaN for missing."""
    label: NDArray[np.int8]
    """(B,) 1 fraud, 0 genuine, -1 unknown; never an input of the payment itself."""
    known_at_seconds: NDArray[np.float64]
    """(B,) when the label becomes known; +inf for never."""
    role: NDArray[np.int8]
    """(B,) SCORED, HISTORY_ONLY or ASKS (`tsa.data.clean_columns`)."""
    raw: tuple[Mapping[str, Any], ...]
    """The clean values by column, enough to encode the payment again."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> EncodedPayments:
        """Some of the payments, in the order of `rows`."""
        at = np.asarray(rows, np.int64)
        arrays = (*EVENT_ARRAYS, "engineered", "role")
        return EncodedPayments(
            ids=tuple(self.ids[row] for row in rows),
            keys={name: tuple(keys[row] for row in rows) for name, keys in self.keys.items()},
            raw=tuple(self.raw[row] for row in rows),
            **{name: getattr(self, name)[at] for name in arrays},
        )


@dataclass(frozen=True, kw_only=True)
class ParsedPayments:
    """The rows of a request: the valid payments, with their positions, and the violations of the others."""

    payments: EncodedPayments
    positions: tuple[int, ...]
    """The position of each payment among the rows."""
    problems: Mapping[int, RuleViolation]
    """By position among the rows."""

    def without(self, wrong: Mapping[int, RuleViolation]) -> ParsedPayments:
        """The same without some payments, given by their number among `payments`, that have a violation after all."""
        if not wrong:
            return self
        valid = [at for at in range(len(self.positions)) if at not in wrong]
        problems = {**self.problems, **{self.positions[at]: problem for at, problem in wrong.items()}}
        return ParsedPayments(
            payments=self.payments.take(valid), positions=tuple(self.positions[at] for at in valid), problems=problems
        )

    def in_place(self, results: Sequence[Result | RuleViolation]) -> list[Result | RuleViolation]:
        """The results in the order of the rows: of a payment its result, else its violation."""
        by_position = {**self.problems, **dict(zip(self.positions, results, strict=True))}
        return [by_position[position] for position in range(len(by_position))]


def tie_break_key(id_: str) -> tuple[int, str]:
    """The key that breaks ties in time, as in `tsa.data.log.reader`: texts by length in bytes, then alphabetically."""
    return len(id_.encode()), id_
