"""Mixture of experts instead of a feed-forward: each position is processed by its two best experts.

Each group of positions (a history, or the features of a payment) is routed separately, so that a score does not depend
on its batch. In evaluation routing is deterministic and, inside networks, drops nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.batch_invariance import pad_rows

MIN_CAPACITY = 4
SECOND_THRESHOLD = 0.2
TRAINING_FACTOR = 1.25


@dataclass
class Routing:
    """The routing of n positions per group to X experts.

    Attributes:
        weights: (groups, n, X), not 0 for the at most two experts of a position.
        slots: (groups, n, X), position in the expert's queue, where weights are not 0.
        balance: Scalar: X² · mean over groups and experts of (share of first choices · mean gate); 1 if balanced.
    """

    weights: Tensor
    slots: Tensor
    balance: Tensor


class Top2Gate(nn.Module):
    """Softmax gate that routes a position to its best two experts (Shazeer et al. 2017; GShard, Lepikhin et al. 2020).

    policy: the second expert is used "all" always, "none" never, "threshold" if its gate exceeds 0.2, "random" with
    probability gate / 0.2 in training and always in evaluation.
    Capacity: an expert processes at most min(n, int(n · factor / X)) positions of a group, but at least 4. Further ones
    are dropped, second choices first. A factor of None sets no limit.
    """

    def __init__(self, width: int, n_experts: int, policy: str, factors: tuple[float | None, float | None]) -> None:
        super().__init__()
        self.w_gating = nn.Parameter(torch.randn(width, n_experts) * width**-0.5)
        self.policy, self.factors = policy, factors

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Routing:
        """x (groups, n, width); hidden (groups, n) bool: positions to ignore."""
        gates = torch.softmax(x @ self.w_gating, dim=-1)
        if hidden is not None:
            gates = gates.masked_fill(hidden.unsqueeze(-1), 0.0)
        first = self._choose(gates)
        rest = gates * (1 - first)
        second = self._choose(rest)
        if hidden is not None:
            first, second = (choice.masked_fill(hidden.unsqueeze(-1), 0.0) for choice in (first, second))
        balance = self._balance(gates, first, hidden)
        gate1, gate2 = (gates * first).sum(-1, keepdim=True), (rest * second).sum(-1, keepdim=True)
        total = gate1 + gate2 + 1e-9
        gate1, gate2 = gate1 / total, gate2 / total
        second = second * self._keeps(gate2)
        first, second, slots = self._queue(first, second, hidden)
        return Routing(gate1 * first + gate2 * second, slots, balance)

    @staticmethod
    def _choose(gates: Tensor) -> Tensor:
        return functional.one_hot(gates.argmax(-1), gates.shape[-1]).to(gates.dtype)

    def _keeps(self, gate: Tensor) -> Tensor:
        if self.policy == "none":
            return torch.zeros_like(gate)
        if self.policy == "threshold":
            return (gate > SECOND_THRESHOLD).to(gate.dtype)
        if self.policy == "random" and self.training:
            return (torch.rand_like(gate) < gate / SECOND_THRESHOLD).to(gate.dtype)
        return torch.ones_like(gate)

    @staticmethod
    def _balance(gates: Tensor, first: Tensor, hidden: Tensor | None) -> Tensor:
        if gates.shape[1] == 1:  # balance needs several positions: use the batch as one group
            gates, first = gates.transpose(0, 1), first.transpose(0, 1)
            hidden = None if hidden is None else hidden.t()
        size = gates.shape[1] if hidden is None else (~hidden).sum(1).clamp(min=1)[:, None]
        share, mean = first.sum(1) / size, gates.sum(1) / size
        return (share * mean).mean() * gates.shape[-1] ** 2

    def _queue(self, first: Tensor, second: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The positions in the experts' queues; choices beyond the capacity are dropped."""
        place1 = (first.cumsum(1) - first) * first
        factor = self.factors[0 if self.training else 1]
        if factor is not None:
            capacity = self._capacity(factor, first, hidden)
            first = first * (place1 < capacity)
        place2 = (second.cumsum(1) - second + first.sum(1, keepdim=True)) * second
        if factor is not None:
            second = second * (place2 < capacity)
        return first, second, place1 * first + place2 * second

    @staticmethod
    def _capacity(factor: float, first: Tensor, hidden: Tensor | None) -> Tensor:
        n = torch.full((len(first),), first.shape[1], device=first.device) if hidden is None else (~hidden).sum(1)
        # integers: int(n · factor / X), at most n, then at least 4
        share = (n * factor / first.shape[-1]).long()
        return torch.minimum(n, share).clamp(min=MIN_CAPACITY)[:, None, None]


class Experts(nn.Module):
    """X experts: Linear, ReLU, Linear, without bias."""

    def __init__(self, n_experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(n_experts, width, hidden).uniform_(-1, 1) * width**-0.5)
        self.w2 = nn.Parameter(torch.empty(n_experts, hidden, width).uniform_(-1, 1) * hidden**-0.5)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Σ over experts of weight · expert(x), each expert run on its own positions: x (n, width), weights (n, X)."""
        out = torch.zeros_like(x)
        for expert in range(len(self.w1)):
            chosen = weights[:, expert].nonzero()[:, 0]
            y = (torch.relu(x[pad_rows(chosen, len(x))] @ self.w1[expert]) @ self.w2[expert])[: len(chosen)]
            out = out.index_add(0, chosen, (y * weights[chosen, expert, None]).to(out.dtype))
        return out


class MixtureOfExperts(nn.Module):
    """Experts with one gate. `balance` collects the balance losses of training forwards until it is cleared."""

    def __init__(
        self,
        width: int,
        hidden: int,
        n_experts: int,
        policy: str,
        factors: tuple[float | None, float | None] = (TRAINING_FACTOR, None),
    ) -> None:
        super().__init__()
        self.gate = Top2Gate(width, n_experts, policy, factors)
        self.experts = Experts(n_experts, width, hidden)
        self.balance: list[Tensor] = []

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """x (groups, n, width) or (n, width), one position per group; hidden (groups, n) bool → as x."""
        groups = x if x.ndim == 3 else x.unsqueeze(1)
        routing = self.route(groups, hidden)
        if self.training:
            self.balance.append(routing.balance)
        out: Tensor = self.experts(x.flatten(0, -2), routing.weights.flatten(0, 1).to(x.dtype))
        return out.view(x.shape)

    def route(self, x: Tensor, hidden: Tensor | None = None) -> Routing:
        """x (groups, n, width) → which experts serve which position."""
        routing: Routing = self.gate(x, hidden)
        return routing


class HierarchicalExperts(MixtureOfExperts):
    """Two levels: a gate chooses two of O groups of experts, then the gate of each group two of its I experts.

    A position's weight for an expert is the product of both levels. X = O · I experts in all.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        n_outer: int,
        n_inner: int,
        policy: str,
        factors: tuple[float | None, float | None] = (TRAINING_FACTOR, None),
    ) -> None:
        super().__init__(width, hidden, n_outer * n_inner, policy, factors)
        self.gate = Top2Gate(width, n_outer, policy, factors)
        self.inner = nn.ModuleList(Top2Gate(width, n_inner, policy, factors) for _ in range(n_outer))

    def route(self, x: Tensor, hidden: Tensor | None = None) -> Routing:
        """x (groups, n, width) → weights (groups, n, O · I); the balance is the sum of both levels'."""
        outer: Routing = self.gate(x, hidden)
        inner = [gate(x, outer.weights[..., i] == 0) for i, gate in enumerate(self.inner)]
        weights = torch.cat([outer.weights[..., i, None] * r.weights for i, r in enumerate(inner)], dim=-1)
        slots = torch.cat([r.slots for r in inner], dim=-1)
        return Routing(weights, slots, outer.balance + torch.stack([r.balance for r in inner]).mean())
