"""Stacks of attention layers, each with a feed-forward or experts, built from the configuration."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tsa.model.config import ModelConfig
from tsa.model.moe import HierarchicalExperts, MixtureOfExperts
from tsa.model.temporal_attention import AttentionContext, AttentionLayer, FeedForward, TemporalAttention

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
    """A sequence of attention layers.

    On a CPU, a few payments at a time go through all layers, so that their values stay in the cache.
    """

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """All positions: x (B, L, E) → (B, L, E)."""
        for layer in self:
            x = layer(x, context)
        return x

    def last(self, x: Tensor, context: AttentionContext) -> Tensor:
        """The output at the last position: x (B, L, E) → (B, E). The last layer computes only that."""
        at_once = max(1, TOKENS_AT_ONCE // x.shape[1])
        if not x.is_cpu or torch.compiler.is_compiling() or (self.training and self._has_experts()):
            return self._last(x, context)
        parts = zip(torch.split(x, at_once), context.split(at_once), strict=False)
        return torch.cat([self._last(*part) for part in parts])

    def to_bfloat16(self) -> None:
        """Convert all layers except the last to bfloat16, in place. For scoring only."""
        for layer in list(self)[:-1]:
            if isinstance(layer, AttentionLayer):
                layer.attention.bfloat16()
                layer.feedforward.bfloat16()

    def _last(self, x: Tensor, context: AttentionContext) -> Tensor:
        *firsts, last = (layer for layer in self if isinstance(layer, AttentionLayer))
        for layer in firsts:
            x = layer(x, context)
        return last.last(x, context)

    def _has_experts(self) -> bool:
        # in training they balance their load over all of a batch
        return any(isinstance(module, MixtureOfExperts) for module in self.modules())
