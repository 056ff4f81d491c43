"""Ensembles of M small networks that share the embedded events, and whose logits are averaged.

An ensemble errs less than one network, and sharing the costly part makes it cheap (TabM, Gorishniy et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BatchedLinear(nn.Module):
    """A separate linear map for each of M members, initialised as `nn.Linear`."""

    def __init__(self, n_ensemble: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_ensemble, n_out, n_in).uniform_(-1.0, 1.0) / math.sqrt(n_in))
        self.bias = nn.Parameter(torch.empty(n_ensemble, n_out).uniform_(-1.0, 1.0) / math.sqrt(n_in))

    def forward(self, x: Tensor) -> Tensor:
        """x (M, B, n_in) → (M, B, n_out)."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


def concat_members(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate parts (B, n) or (B, M, n) along the last dimension. Parts without M are repeated for each member."""
    members = next((part.shape[1] for part in parts if part.ndim == 3), None)
    if members is not None:
        parts = [part if part.ndim == 3 else part.unsqueeze(1).expand(-1, members, -1) for part in parts]
    return torch.cat(list(parts), dim=-1)


def mean_over_members(logits: Tensor) -> Tensor:
    """The mean logits of the members, (B, M, classes) → (B, classes); logits (B, classes) are returned unchanged."""
    return logits.mean(1) if logits.ndim == 3 else logits
