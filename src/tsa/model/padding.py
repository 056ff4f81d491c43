"""A score must not tell how many of its neighbours went the same way, not even by a bit.

Matrix products of few rows round differently from those of many. Where rows of a batch go different ways, those that go one
way are filled up with copies.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_ROWS = 32
"""Below about sixteen rows the matrix products of some processors take other ways (measured on AVX-512)."""


def pad_rows(chosen: Tensor, n: int) -> Tensor:
    """The indices `chosen` (m,) of n rows, with copies of the last one up to min(n, FEWEST). None stays none."""
    missing = min(n, MIN_ROWS) - len(chosen)
    if torch.compiler.is_exporting() or missing <= 0 or not len(chosen):
        return chosen
    return torch.cat([chosen, chosen[-1:].expand(missing)])
