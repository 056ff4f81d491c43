"""Multi-head attention that depends on the time between events, for all positions or only for the last."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.dropout import attention_with_dropout, dropout, relu_dropout
from tsa.model.time_encoding import AGE_CAP_SECONDS, OLDEST_SECONDS, age_distance, age_growth

FAR = 1e30  # a distance that hides a key, but finite: 0 · inf would make the gradient of the decay NaN


@dataclass
class AttentionContext:
    """Masks and ages of the tokens, computed once per forward pass and shared by all layers of a stack.

    Attributes:
        key_padding_mask: (B, L) bool, True for hidden keys; None: no key is hidden.
        growth: (B, L) float, exp(age / 1e6 s) for "exponential" attention.
        distance: (B, L, L) float, or (B, 1, L) for cross-attention: log1p of the days between two events for "log"
            attention; FAR for hidden keys.
        key_log_weight: (B, L) float, added to the logits of each key. Only explanations use it.
    """

    key_padding_mask: Tensor | None = None
    growth: Tensor | None = None
    distance: Tensor | None = None
    key_log_weight: Tensor | None = None

    @classmethod
    def of(
        cls,
        padding: Tensor,
        age_seconds: Tensor,
        time: str,
        *,
        last_only: bool = False,
        cap_seconds: float = AGE_CAP_SECONDS,
    ) -> AttentionContext:
        """The context of a history.

        Args:
            padding: (B, L) bool.
            age_seconds: (B, L).
            time: The market's `time_attention`.
            last_only: Only the last position attends.
            cap_seconds: The largest age, for "exponential".
        """
        growth = None
        if time == "exponential":
            harmless = age_seconds.masked_fill(age_seconds.isnan(), 0.0).clamp(-AGE_CAP_SECONDS, AGE_CAP_SECONDS)
            growth = age_growth(torch.where(padding, harmless, age_seconds), cap_seconds)
        distance = None
        if time == "log":
            queries = slice(-1, None) if last_only else slice(None)
            age = age_seconds.masked_fill(padding, 0.0).clamp(0.0, OLDEST_SECONDS)
            distance = age_distance(age, queries).masked_fill(padding[:, None], FAR)
        return cls(padding, growth, distance)

    def split(self, size: int) -> Iterator[AttentionContext]:
        """The contexts of `size` payments at a time. Endless if no tensor is set."""
        known = (self.key_padding_mask, self.growth, self.distance, self.key_log_weight)
        columns = (itertools.repeat(None) if v is None else torch.split(v, size) for v in known)
        return itertools.starmap(AttentionContext, zip(*columns, strict=False))


class TemporalAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) over tokens of width E with H heads, packed query, key and value.

    time = "none"         softmax(q·k / √(E/H))
    time = "exponential"  softmax(exp((age_i − age_j) / 1e6 s) · q·k / √(E/H)): a logit shrinks as the key ages
    time = "log"          softmax(q·k / √(E/H) − exp(s_h) · log1p(|age_i − age_j| in days)), s_h learned per head,
                          −3 … 1 over the heads at first
    """

    def __init__(self, width: int, n_heads: int, dropout: float = 0.0, time: str = "none") -> None:
        super().__init__()
        self.n_heads, self.dropout, self.time = n_heads, dropout, time
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)
        if time == "log":
            self.decay = nn.Parameter(torch.linspace(-3.0, 1.0, n_heads))

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """x (B, L, E) → (B, L, E)."""
        batch, length, width = x.shape
        if self.n_heads == 1 and length > 2 * width and context.growth is None and not torch.is_grad_enabled():
            return self._one_head(x, context)
        packed = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.view(batch, length, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4).unbind(0)
        if context.growth is not None:
            growth = context.growth[:, None, :, None].to(x.dtype)
            q, k = q * growth, k / growth
        attended = attention_with_dropout(
            q, k, v, self._bias(context, slice(None), x.dtype), self.dropout if self.training else 0.0
        )
        out: Tensor = self.out_proj(attended.transpose(1, 2).reshape(batch, length, width))
        return out

    def _one_head(self, x: Tensor, context: AttentionContext) -> Tensor:
        """As `forward`, for one head, many tokens and no gradients: two projections of all tokens instead of four.

        q·k equals x_i · (Wqᵀ Wk) x_j + (Wkᵀ bq) · x_j up to a constant per query, which softmax ignores. Since the weights
        sum to 1, the value projection can be applied after them, merged with the output projection.
        """
        (wq, wk, wv), (bq, _, bv) = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q = functional.linear(x, wk.t() @ wq, wk.t() @ bq).unsqueeze(1)
        tokens, last = x.unsqueeze(1), self.out_proj
        attended = attention_with_dropout(q, tokens, tokens, self._bias(context, slice(None), x.dtype), 0.0)[:, 0]
        return functional.linear(attended, last.weight @ wv, torch.addmv(last.bias, last.weight, bv))

    def last(self, x: Tensor, context: AttentionContext) -> Tensor:
        """The result at the last position only: x (B, L, E) → (B, E).

        With one query, the key projection can be folded into the query, and the value projection applied to the weighted
        mean of the tokens. That saves two projections of all L tokens.
        """
        width = x.shape[-1]
        head = width // self.n_heads
        wv, bv = self.in_proj_weight.chunk(3)[2], self.in_proj_bias.chunk(3)[2]
        weights = dropout(self.last_weights(x, context), self.dropout, self.training)
        mixed = (weights @ x).transpose(0, 1)
        values = (mixed @ wv.view(self.n_heads, head, width).transpose(1, 2)).transpose(0, 1)
        # weights sum to 1 except under dropout, where the bias is scaled with them
        dropped = self.training and self.dropout > 0
        values = values + (weights.sum(-1, keepdim=True) if dropped else 1.0) * bv.view(self.n_heads, head)
        out: Tensor = self.out_proj(values.flatten(1))
        return out

    def last_weights(self, x: Tensor, context: AttentionContext) -> Tensor:
        """How much the last position attends to each token per head: x (B, L, E) → (B, H, L)."""
        batch, _, width = x.shape
        head = width // self.n_heads
        wq, wk, _ = self.in_proj_weight.chunk(3)
        bq, bk, _ = self.in_proj_bias.chunk(3)
        q = functional.linear(x[:, -1], wq, bq).view(batch, self.n_heads, head) / math.sqrt(head)
        folded = (q.transpose(0, 1) @ wk.view(self.n_heads, head, width)).transpose(0, 1)  # (B, H, E)
        logits = folded @ x.transpose(1, 2)
        if context.growth is not None:
            # without growth the key's bias adds the same to all logits, which softmax ignores
            logits = logits + (q * bk.view(self.n_heads, head)).sum(-1, keepdim=True)
            logits = logits * (context.growth[:, -1:] / context.growth)[:, None].to(x.dtype)
        if (bias := self._bias(context, slice(-1, None), x.dtype)) is not None:
            logits = logits + bias[:, :, 0]
        return torch.softmax(logits, dim=-1)

    def _bias(self, context: AttentionContext, queries: slice, dtype: torch.dtype) -> Tensor | None:
        """The term added to the logits of the `queries`: (B, 1 or H, 1 or L, L), −inf or −FAR · decay at hidden keys."""
        bias = self._mask(context, queries, dtype)
        if context.key_log_weight is None:
            return bias
        key_weight = context.key_log_weight[:, None, None].to(dtype)
        return key_weight if bias is None else bias + key_weight

    def _mask(self, context: AttentionContext, queries: slice, dtype: torch.dtype) -> Tensor | None:
        if context.distance is not None:
            return (context.distance[:, None, queries] * -self.decay.exp()[:, None, None]).to(dtype)
        if context.key_padding_mask is None:
            return None
        bias = torch.zeros(context.key_padding_mask.shape, dtype=dtype, device=context.key_padding_mask.device)
        return bias.masked_fill_(context.key_padding_mask, -math.inf)[:, None, None]


class FeedForward(nn.Module):
    """Linear(E, H_ff), activation, dropout, Linear(H_ff, E), position by position."""

    def __init__(self, width: int, hidden: int, dropout: float, activation: str = "relu") -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout, self.activation = dropout, activation

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """x (…, E) → (…, E). `hidden` is for experts, which have the same signature; it is ignored here."""
        inner = self.widen(x)
        if self.activation == "relu":
            inner = relu_dropout(inner, self.dropout, self.training)
        else:
            inner = dropout(functional.gelu(inner), self.dropout, self.training)
        out: Tensor = self.narrow(inner)
        return out


class AttentionLayer(nn.Module):
    """Attention, then a feed-forward (or experts), each with a residual, dropout and LayerNorm.

    norm = "post": x ← LN1(x + attention(x)), x ← LN2(x + feedforward(x)) (Vaswani et al. 2017)
    norm = "pre":  x ← x + attention(LN1(x)), x ← x + feedforward(LN2(x)) (Xiong et al. 2020)
    """

    def __init__(
        self, attention: TemporalAttention, feedforward: nn.Module, width: int, dropout: float, norm: str
    ) -> None:
        super().__init__()
        self.attention, self.feedforward = attention, feedforward
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout, self.norm = dropout, norm

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """All positions: x (B, L, E) → (B, L, E)."""
        attended = self.attention(self._before(self.norm1, x), context)
        return self._feed(self._after(self.norm1, x, attended), context.key_padding_mask)

    def last(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Only the last position: x (B, L, E) → (B, E)."""
        attended = self.attention.last(self._before(self.norm1, x), context)
        return self._feed(self._after(self.norm1, x[:, -1], attended), None)

    def last_weights(self, x: Tensor, context: AttentionContext) -> Tensor:
        """How much the last position attends to each per head: x (B, L, E) → (B, H, L)."""
        return self.attention.last_weights(self._before(self.norm1, x), context)

    def _feed(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        return self._after(self.norm2, x, self.feedforward(self._before(self.norm2, x), hidden))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        # the products may be in a smaller type than the residual stream and the norms
        inner: Tensor = norm(x) if self.norm == "pre" else x
        return inner.to(self.attention.in_proj_weight.dtype)

    def _after(self, norm: nn.Module, x: Tensor, inner: Tensor) -> Tensor:
        total = x + dropout(inner, self.dropout, self.training).to(x.dtype)
        out: Tensor = total if self.norm == "pre" else norm(total)
        return out
