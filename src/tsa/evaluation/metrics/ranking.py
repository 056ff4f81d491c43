"""A ranking: the scores of many payments reduced to the few cells that every threshold metric needs.

Threshold metrics do not distinguish genuine payments between two neighbouring fraud scores, so two cells per distinct
fraud score are enough: those above it and those tied with it. This is exact, and makes bootstrap replicates cheap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsa.evaluation.metrics.scored_payments import Array

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """F frauds and N genuine payments in descending order of score; G steps: the distinct fraud scores and the cut.

    The cut is a step without frauds at the decision threshold: payments at or above it are flagged.
    """

    fraud_rows: Integers  # (F) rows of the frauds
    fraud_values: Floats | None  # (F) their amounts, missing and negative ones as 0
    fraud_starts: Integers  # (G - 1) where each distinct score begins in fraud_rows
    genuine_rows: Integers | None  # (N) rows of the genuine payments, only with keep_rows
    cell_starts: Integers  # (2 G + 1) first genuine payment of run 0, tie 0, run 1, ... , last run
    genuine: int  # N
    cut: int  # index of the cut among the steps
    scores: Floats  # (G) score of each step

    @property
    def frauds(self) -> int:
        """F."""
        return len(self.fraud_rows)

    @property
    def cell_counts(self) -> Integers:
        """(2 G + 1) genuine payments in each cell."""
        return np.diff(self.cell_starts, append=self.genuine)

    def fraud_steps(self, weights: Array) -> Floats | Integers:
        """Sum weights (b, F) over each step: (b, G), with nothing at the cut."""
        steps = np.zeros((len(weights), len(self.scores)), dtype=np.result_type(weights.dtype, np.int64))
        if self.frauds:
            sums = np.add.reduceat(weights, self.fraud_starts, axis=1, dtype=steps.dtype)
            steps[:, : self.cut] = sums[:, : self.cut]
            steps[:, self.cut + 1 :] = sums[:, self.cut :]
        return steps

    def genuine_cells(self, weights: Array) -> Integers:
        """Sum weights (N), in the order of genuine_rows, over each cell: (2 G + 1)."""
        cells = np.zeros(len(self.cell_starts), dtype=np.int64)
        filled = self.cell_counts > 0  # reduceat does not support empty slices
        if filled.any():
            cells[filled] = np.add.reduceat(weights, self.cell_starts[filled], dtype=np.int64)
        return cells


def rank(
    label: Array, score: Array, *, threshold: float, amount: Array | None = None, keep_rows: bool = False
) -> Ranking:
    """Rank payments by label (n) in {0, 1} and score (n); keep_rows keeps the order of the genuine ones as well."""
    descending = -np.asarray(score, dtype=np.float64)
    is_fraud = label == 1
    fraud_rows = np.flatnonzero(is_fraud)
    fraud_rows = fraud_rows[np.argsort(descending[fraud_rows], kind="stable")]
    rows = None
    if keep_rows:
        rows = np.flatnonzero(~is_fraud)
        rows = rows[np.argsort(descending[rows], kind="stable")]
        genuine = descending[rows]
    else:
        genuine = np.sort(descending[~is_fraud])
    frauds = descending[fraud_rows]
    starts = np.flatnonzero(np.diff(frauds, prepend=np.nan) != 0)
    cut = int(np.searchsorted(frauds[starts], -threshold, side="right"))
    return Ranking(
        fraud_rows=fraud_rows,
        fraud_values=None if amount is None else np.fmax(np.asarray(amount, dtype=np.float64)[fraud_rows], 0.0),
        fraud_starts=starts,
        genuine_rows=rows,
        cell_starts=_cell_starts(genuine, frauds[starts], -threshold, cut),
        genuine=len(genuine),
        cut=cut,
        scores=np.insert(-frauds[starts], cut, threshold),
    )


def _cell_starts(genuine: Floats, steps: Floats, threshold: float, cut: int) -> Integers:
    """Where each cell begins in the sorted genuine scores; all scores negated, so ascending."""
    first = np.searchsorted(genuine, steps, side="left")
    after = np.searchsorted(genuine, steps, side="right")
    below_cut = np.searchsorted(genuine, threshold, side="right")
    first, after = np.insert(first, cut, below_cut), np.insert(after, cut, below_cut)
    starts = np.zeros(2 * len(first) + 1, dtype=np.int64)
    starts[1::2], starts[2::2] = first, after
    return starts
