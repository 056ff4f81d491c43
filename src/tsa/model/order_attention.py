"""Order attention: attention over the events of one history, their order and their ages."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.batch import History
from tsa.model.config import ModelConfig
from tsa.model.cross_attention import CrossAttention
from tsa.model.embedding import event_embedding
from tsa.model.layers import TOKENS_AT_ONCE, stack
from tsa.model.temporal_attention import AttentionContext
from tsa.model.time_encoding import OLDEST_SECONDS, TimeEncode
from tsa.times import DAY_SECONDS


def _tokens_at_once() -> int:
    """One thread is fastest on tokens that fit its cache; several need more, since they synchronise after each product."""
    return TOKENS_AT_ONCE if torch.get_num_threads() == 1 else 4 * TOKENS_AT_ONCE


class OrderAttention(nn.Module):
    """Embeds the events of a history and attends over them. The output is that of a learned token or the current event.

    The shared table (N + 2, D) is an argument, since several blocks read it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.event_width
        self.time, self.cap_seconds = config.time_attention, config.age_cap_seconds
        self.age = TimeEncode(width) if config.time_encoding else None
        self.events = event_embedding(config)
        self.token = nn.Parameter(torch.randn(1, width)) if config.pooling == "cls" else None
        self.is_cross = config.order_attention == "cross"
        self.norm = nn.Identity() if self.is_cross else nn.LayerNorm(width)
        self.layers = (
            CrossAttention(config)
            if self.is_cross
            else stack(config, "order", width, config.norm, config.time_attention)
        )
        self.last_norm = nn.LayerNorm(width) if config.norm == "pre" else nn.Identity()

    def forward(self, history: History, table: Tensor) -> Tensor:
        """A history of (B, L) events → (B, E), or (B, M, E) for members. The last layer computes only the output position."""
        if not (self.is_cross and table.is_cpu) or torch.compiler.is_exporting():
            return self._read(history, table)
        at_once = max(1, _tokens_at_once() // history.padding.shape[1])
        if len(history.padding) <= at_once:
            return self._read(history, table)
        # a few payments at a time: their values stay in the processor's cache
        return torch.cat([self._read(part, table) for part in history.split(at_once)])

    def aged(self, events: Tensor, age_seconds: Tensor, padding: Tensor | None = None) -> Tensor:
        """Embedded events (B, L, E) plus the encoding of their ages (B, L), if there is a time encoding."""
        if self.age is None:
            return events
        if padding is not None:
            age_seconds = age_seconds.masked_fill(padding, 0.0)
        days = age_seconds.clamp(0.0, OLDEST_SECONDS) / DAY_SECONDS
        aged: Tensor = events + self.age(torch.log1p(days).to(events.dtype))
        return aged

    def sequence(self, history: History, table: Tensor) -> Tensor:
        """All positions: (B, L, E), or (B, L + 1, E) with the learned token last. For order_attention="self" only."""
        x, context = self._start(history, table)
        out: Tensor = self.last_norm(self.layers(x, context))
        return out

    def make_context(self, padding: Tensor, age_seconds: Tensor) -> AttentionContext:
        """The context of a history with padding and ages (B, L)."""
        return AttentionContext.of(
            padding, age_seconds, self.time, last_only=self.is_cross, cap_seconds=self.cap_seconds
        )

    def _read(self, history: History, table: Tensor) -> Tensor:
        x, context = self._start(history, table)
        out: Tensor = self.last_norm(self.layers.last(x, context))
        return out

    def _start(self, history: History, table: Tensor) -> tuple[Tensor, AttentionContext]:
        padding, age = history.padding, history.age_seconds
        x = self.aged(self.events(history, table), age, padding)
        if self.token is not None:
            x = torch.cat([x, self.token.to(x.dtype).expand(x.shape[0], 1, -1)], dim=1)
            padding, age = functional.pad(padding, (0, 1)), functional.pad(age, (0, 1))
        else:
            # the current event is always visible: else a row of padding only would attend to nothing
            padding = functional.pad(padding[:, :-1], (0, 1))
        return self.norm(x), self.make_context(padding, age)
