"""The neutral payment: the baseline at which the path of an explanation begins. docs/concepts/reasons.md gives the reasons."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import MISSING, ImportedScaler, Scaler, ScalerGroup
from tsa.data.encoding.vocabulary import ImportedVocabulary, Vocabulary

MEDIAN = 0.5


@dataclass(frozen=True)
class Baseline:
    """The neutral values of C categorical, F numerical and G engineered features.

    rows       C tensors of table rows: the mean of their vectors is the neutral vector of a categorical feature
    numerical  (F,) scaled
    engineered (G,) scaled
    """

    rows: tuple[Tensor, ...]
    numerical: Tensor
    engineered: Tensor

    @classmethod
    def of(cls, encoder: Encoder) -> Baseline:
        """Categories: the mean of the known vectors. Numbers: the mean, the median or, for minmax, the minimum."""
        rows = tuple(torch.tensor(_known_rows(vocabulary)) for vocabulary in encoder.vocabularies)
        return cls(rows, _numbers(encoder.numerical_scaling), _numbers(encoder.engineered_scaling))

    def vectors(self, table: Tensor) -> Tensor:
        """The neutral vectors of the categorical features in a table (N, D): (C, D)."""
        if not self.rows:
            return table.new_zeros(0, table.shape[1])
        return torch.stack([table[rows.to(table.device)].mean(0) for rows in self.rows])


def _known_rows(vocabulary: Vocabulary | ImportedVocabulary) -> list[int]:
    if isinstance(vocabulary, ImportedVocabulary):
        return sorted(set(vocabulary.rows)) or [vocabulary.missing_row]
    return list(range(vocabulary.known_row, vocabulary.next_row)) or [vocabulary.missing_row]


def _numbers(scaling: ScalerGroup) -> Tensor:
    own = [_number(scaler) for scaler in scaling.scalers]
    markers = len(scaling.names) - len(own)  # no value is missing
    return torch.tensor([*own, *[0.0] * markers], dtype=torch.float32)


def _number(scaler: Scaler | ImportedScaler) -> float:
    if isinstance(scaler, ImportedScaler):
        return scaler.default * scaler.slope + scaler.offset
    return MEDIAN if scaler.scale == "quantile" else MISSING
