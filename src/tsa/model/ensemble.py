"""Members: several small networks in one, which read the same embedded events and are averaged.

Networks trained apart with other seeds err differently, and their mean errs less; members that share the costly part do so for
a fraction of the work (Gorishniy, Kotelnikov and Babenko 2025, TabM). Knows tensors with a dimension of M members; not what
they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BatchedLinear(nn.Module):
    """A linear map of its own for each of M members, made as `nn.Linear` makes one."""

    def __init__(self, n_ensemble: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_ensemble, n_out, n_in).uniform_(-1.0, 1.0) / math.sqrt(n_in))
        self.bias = nn.Parameter(torch.empty(n_ensemble, n_out).uniform_(-1.0, 1.0) / math.sqrt(n_in))

    def forward(self, x: Tensor) -> Tensor:
        """x (M, B, n_in) → (M, B, n_out)."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


def concat_members(parts: Sequence[Tensor]) -> Tensor:
    """Parts (B, n) or (B, M, n) along their last dimension; what all members share is given to each."""
    members = next((part.shape[1] for part in parts if part.ndim == 3), None)
    if members is not None:
        parts = [part if part.ndim == 3 else part.unsqueeze(1).expand(-1, members, -1) for part in parts]
    return torch.cat(list(parts), dim=-1)


def mean_over_members(logits: Tensor) -> Tensor:
    """The mean of what members say, (B, M, classes) → (B, classes); of a network without members, what it says."""
    return logits.mean(1) if logits.ndim == 3 else logits
