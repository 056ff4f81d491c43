"""Stacks of layers as the configuration asks for them: attention, then a feed-forward or experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tsa.model.attention import AttentionContext, AttentionLayer, FeedForward, TemporalAttention
from tsa.model.config import ModelConfig
from tsa.model.moe import HierarchicalExperts, MixtureOfExperts

TOKENS_AT_ONCE = 2304


def stack(config: ModelConfig, block: str, width: int, norm: str, time: str) -> Stack:
    """The layers of the `block` "order" or "feature" over tokens of `width`."""
    layers = Stack()
    for _ in range(config.n_order_layers if block == "order" else config.n_feature_layers):
        attention = TemporalAttention(width, config.n_heads, config.dropout, time)
        layers.append(AttentionLayer(attention, _feedforward(config, block, width), width, config.dropout, norm))
    return layers


def _feedforward(config: ModelConfig, block: str, width: int) -> nn.Module:
    if config.n_experts == 0 or block not in config.experts_in:
        return FeedForward(width, config.feedforward_width, config.dropout, config.activation)
    if config.n_expert_groups > 1:
        inner = config.n_experts // config.n_expert_groups
        return HierarchicalExperts(width, config.feedforward_width, config.n_expert_groups, inner, config.expert_policy)
    return MixtureOfExperts(width, config.feedforward_width, config.n_experts, config.expert_policy)


class Stack(nn.ModuleList):
    """Attention layers one after the other.

    On a CPU a few payments go through all layers before the next few do: their values then stay in its cache.
    """

    def forward(self, x: Tensor, around: AttentionContext) -> Tensor:
        """All positions: x (B, L, E) → (B, L, E)."""
        for layer in self:
            x = layer(x, around)
        return x

    def last(self, x: Tensor, around: AttentionContext) -> Tensor:
        """What the stack makes of the last position: x (B, L, E) → (B, E). The last layer computes nothing else."""
        at_once = max(1, TOKENS_AT_ONCE // x.shape[1])
        if not x.is_cpu or torch.compiler.is_compiling() or (self.training and self._has_experts()):
            return self._last(x, around)
        parts = zip(torch.split(x, at_once), around.split(at_once), strict=False)
        return torch.cat([self._last(*part) for part in parts])

    def to_bfloat16(self) -> None:
        """For scoring only, in place: the products of all layers but the last in bfloat16."""
        for layer in list(self)[:-1]:
            if isinstance(layer, AttentionLayer):
                layer.attention.bfloat16()
                layer.feedforward.bfloat16()

    def _last(self, x: Tensor, around: AttentionContext) -> Tensor:
        *firsts, last = (layer for layer in self if isinstance(layer, AttentionLayer))
        for layer in firsts:
            x = layer(x, around)
        return last.last(x, around)

    def _has_experts(self) -> bool:
        # in training they balance their load over all of a batch
        return any(isinstance(module, MixtureOfExperts) for module in self.modules())
