"""Pad small groups of rows with copies, so that a score is bit-identical whatever else is in its batch.

Matrix products of few rows round differently from those of many. This matters where only some rows of a batch are
processed: experts, and gated histories.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_ROWS = 32
"""Below about 16 rows some processors use other algorithms for matrix products (measured on AVX-512)."""


def pad_rows(chosen: Tensor, n: int) -> Tensor:
    """The indices `chosen` (m,) of n rows, with copies of the last one up to min(n, `MIN_ROWS`). Empty stays empty."""
    missing = min(n, MIN_ROWS) - len(chosen)
    if torch.compiler.is_exporting() or missing <= 0 or not len(chosen):
        return chosen
    return torch.cat([chosen, chosen[-1:].expand(missing)])
