"""Recall: the current event alone reads its history, in several passes, each asking with what the earlier ones found.

The events stay as they were embedded, so that a pass costs one query instead of L (memory networks, Sukhbaatar et al.
2015; Jaegle et al. 2021 read long inputs this way). Knows embedded events; not how they were embedded.
"""

from __future__ import annotations

from torch import Tensor, nn

from tsa.model.attention import FeedForward, Surroundings, TemporalAttention
from tsa.model.config import ModelConfig
from tsa.model.dropout import dropout


class RecallLayer(nn.Module):
    """One pass, pre-norm: q ← q + attention(LN1(q), events), q ← q + feedforward(LN2(q))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.event_width
        # no dropout on the attention itself: one known fraud may be all there is to find
        self.attention = TemporalAttention(width, config.n_heads, 0.0, config.time_attention)
        self.feedforward = FeedForward(width, config.feedforward_width, config.dropout, config.activation)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = config.dropout

    def forward(self, query: Tensor, events: Tensor, around: Surroundings) -> Tensor:
        """query (B, E), events (B, L, E) → (B, E)."""
        found = self.attention.last(events, around, self.norm1(query))
        query = query + dropout(found, self.dropout, self.training)
        made = self.feedforward(self.norm2(query))
        return query + dropout(made, self.dropout, self.training)


class Recall(nn.ModuleList):
    """The passes, one after the other; what comes out stands for the last event, the current one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(RecallLayer(config) for _ in range(config.n_order_layers))
        self.norm = nn.LayerNorm(config.event_width)

    def last(self, x: Tensor, around: Surroundings) -> Tensor:
        """x (B, L, E), embedded events → (B, E)."""
        query, events = x[:, -1], self.norm(x)
        for layer in self._passes:
            query = layer(query, events, around)
        return query

    def last_weights(self, x: Tensor, around: Surroundings) -> Tensor:
        """How much the last pass attends to each event per head: x (B, L, E), embedded events → (B, H, L)."""
        query, events = x[:, -1], self.norm(x)
        *firsts, last = self._passes
        for layer in firsts:
            query = layer(query, events, around)
        return last.attention.last_weights(events, around, last.norm1(query))

    @property
    def _passes(self) -> list[RecallLayer]:
        return [layer for layer in self if isinstance(layer, RecallLayer)]
