"""Cross-attention: the current event attends to the embedded events of its history, in several layers.

The events do not change between layers, so a layer costs one query instead of L (memory networks, Sukhbaatar et al.
2015; Perceiver, Jaegle et al. 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.config import ModelConfig
from tsa.model.dropout import dropout
from tsa.model.network_ensemble import BatchedLinear
from tsa.model.temporal_attention import AttentionContext


class LastQueryAttention(nn.Module):
    """As `TemporalAttention.last`, for the queries of M members with H heads each over the same events.

    Keys and values are not computed: the key projection is folded into the queries, the value projection applied to the
    weighted means of the events. No dropout on the weights: a history may hold a single known fraud.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.n_ensemble, self.n_heads = config.event_width, config.n_ensemble, config.n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(self.n_ensemble, 3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(self.n_ensemble, 3 * width))
        self.out_proj = BatchedLinear(self.n_ensemble, width, width)
        nn.init.zeros_(self.out_proj.bias)
        for member in self.in_proj_weight.data:
            nn.init.xavier_uniform_(member)
        if config.time_attention == "log":
            self.decay = nn.Parameter(torch.linspace(-3.0, 1.0, self.n_heads).repeat(self.n_ensemble))

    def forward(self, query: Tensor, events: Tensor, context: AttentionContext) -> Tensor:
        """query (M, B, E), events (B, L, E) → (M, B, E)."""
        wv, bv = self.in_proj_weight.chunk(3, dim=1)[2], self.in_proj_bias.chunk(3, dim=1)[2]
        mixed = (self.weights(query, events, context) @ events).transpose(0, 1)
        values = mixed @ self._by_head(wv).transpose(1, 2)  # (M · H, B, E / H)
        values = values.view(self.n_ensemble, self.n_heads, *values.shape[1:]).transpose(1, 2).flatten(2)
        out: Tensor = self.out_proj(values + bv.unsqueeze(1))
        return out

    def weights(self, query: Tensor, events: Tensor, context: AttentionContext) -> Tensor:
        """How much each head attends to each event: query (M, B, E), events (B, L, E) → (B, M · H, L)."""
        wq, wk, _ = self.in_proj_weight.chunk(3, dim=1)
        bq, bk, _ = self.in_proj_bias.chunk(3, dim=1)
        q = torch.baddbmm(bq.unsqueeze(1), query, wq.transpose(1, 2))
        q = q.view(*query.shape[:2], self.n_heads, -1).transpose(1, 2).flatten(0, 1)  # (M · H, B, E / H)
        q = q / math.sqrt(q.shape[-1])
        logits = (q @ self._by_head(wk)).transpose(0, 1) @ events.transpose(1, 2)
        if context.growth is not None:
            # elsewhere the key's bias adds the same to all logits, which softmax does not see
            logits = logits + (q * bk.reshape(len(q), 1, -1)).sum(-1).t().unsqueeze(-1)
            logits = logits * (context.growth[:, -1:] / context.growth)[:, None].to(logits.dtype)
        if context.distance is not None:
            logits = logits + (context.distance[:, -1:] * -self.decay.exp()[:, None]).to(logits.dtype)
        elif context.key_padding_mask is not None:
            logits = logits.masked_fill(context.key_padding_mask[:, None], -math.inf)
        if context.key_log_weight is not None:
            logits = logits + context.key_log_weight[:, None].to(logits.dtype)
        return torch.softmax(logits, dim=-1)

    def _by_head(self, weight: Tensor) -> Tensor:
        """(M, E, E) → (M · H, E / H, E)."""
        return weight.reshape(self.n_ensemble * self.n_heads, -1, weight.shape[-1])


class CrossAttentionLayer(nn.Module):
    """One layer, pre-norm: q ← q + attention(LN1(q), events), q ← q + feedforward(LN2(q))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden, members = config.event_width, config.feedforward_width, config.n_ensemble
        self.attention = LastQueryAttention(config)
        self.widen, self.narrow = BatchedLinear(members, width, hidden), BatchedLinear(members, hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout, self.activation = config.dropout, config.activation

    def forward(self, query: Tensor, events: Tensor, context: AttentionContext) -> Tensor:
        """query (M, B, E), events (B, L, E) → (M, B, E)."""
        query = query + dropout(self.attention(self.norm1(query), events, context), self.dropout, self.training)
        h = self.widen(self.norm2(query))
        h = torch.relu(h) if self.activation == "relu" else functional.gelu(h)
        return query + dropout(self.narrow(dropout(h, self.dropout, self.training)), self.dropout, self.training)


class CrossAttention(nn.ModuleList):
    """A stack of cross-attention layers. The output is that of the current event."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(CrossAttentionLayer(config) for _ in range(config.n_order_layers))
        self.norm = nn.LayerNorm(config.event_width)
        self.n_ensemble = config.n_ensemble

    def last(self, x: Tensor, context: AttentionContext) -> Tensor:
        """x (B, L, E), embedded events → (B, E), or (B, M, E) for an ensemble."""
        query, events = self._start(x)
        for layer in self._attention_layers:
            query = layer(query, events, context)
        return query[0] if self.n_ensemble == 1 else query.transpose(0, 1)

    def last_weights(self, x: Tensor, context: AttentionContext) -> Tensor:
        """How much the last layer attends to each event per head: x (B, L, E), embedded events → (B, M · H, L)."""
        query, events = self._start(x)
        *firsts, last = self._attention_layers
        for layer in firsts:
            query = layer(query, events, context)
        return last.attention.weights(last.norm1(query), events, context)

    def _start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, -1].expand(self.n_ensemble, -1, -1), self.norm(x)

    @property
    def _attention_layers(self) -> list[CrossAttentionLayer]:
        return [layer for layer in self if isinstance(layer, CrossAttentionLayer)]
