"""Stacks of layers as the configuration asks for them: attention, then a feed-forward or experts."""

from __future__ import annotations

from torch import Tensor, nn

from tsa.model.attention import AttentionLayer, FeedForward, Surroundings, TemporalAttention
from tsa.model.config import ModelConfig
from tsa.model.experts import HierarchicalExperts, MixtureOfExperts


def attention_layer(config: ModelConfig, block: str, width: int, norm: str, time: str) -> AttentionLayer:
    """A layer over tokens of `width`, of the `block` "order" or "feature"."""
    attention = TemporalAttention(width, config.n_heads, config.dropout, time)
    return AttentionLayer(attention, _feedforward(config, block, width), width, config.dropout, norm)


def _feedforward(config: ModelConfig, block: str, width: int) -> nn.Module:
    if config.n_experts == 0 or block not in config.experts_in:
        return FeedForward(width, config.feedforward_width, config.dropout, config.activation)
    if config.n_expert_groups > 1:
        inner = config.n_experts // config.n_expert_groups
        return HierarchicalExperts(width, config.feedforward_width, config.n_expert_groups, inner, config.expert_policy)
    return MixtureOfExperts(width, config.feedforward_width, config.n_experts, config.expert_policy)


def through_to_last(layers: nn.ModuleList, x: Tensor, around: Surroundings) -> Tensor:
    """What the stack makes of the last position: x (B, L, E) → (B, E). The last layer computes nothing else."""
    *firsts, last = (layer for layer in layers if isinstance(layer, AttentionLayer))
    for layer in firsts:
        x = layer(x, around)
    return last.last(x, around)
