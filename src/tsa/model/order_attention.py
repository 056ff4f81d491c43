"""Order attention: what happened under one key, in which order, how long ago.

Knows one history; not the other ones, and not how the current event's features interact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.attention import AttentionContext
from tsa.model.batch import History
from tsa.model.config import ModelConfig
from tsa.model.cross_attention import CrossAttention
from tsa.model.embedding import event_embedding
from tsa.model.layers import TOKENS_AT_ONCE, stack
from tsa.model.time_encoding import OLDEST_SECONDS, TimeEncode
from tsa.times import DAY_SECONDS


def _tokens_at_once() -> int:
    """One thread is quickest on what stays in its cache; several want more, since after each product they wait for all."""
    return TOKENS_AT_ONCE if torch.get_num_threads() == 1 else 4 * TOKENS_AT_ONCE


class OrderAttention(nn.Module):
    """Embeds the events of a history and attends over them; read out at a learned token, or at the current event.

    The shared table (N + 2, D) is handed in, since several blocks read it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.event_width
        self.time, self.cap_seconds = config.time_attention, config.age_cap_seconds
        self.age = TimeEncode(width) if config.time_encoding else None
        self.events = event_embedding(config)
        self.token = nn.Parameter(torch.randn(1, width)) if config.pooling == "cls" else None
        self.recalls = config.order_attention == "cross"
        self.norm = nn.Identity() if self.recalls else nn.LayerNorm(width)
        self.layers = (
            CrossAttention(config)
            if self.recalls
            else stack(config, "order", width, config.norm, config.time_attention)
        )
        self.last_norm = nn.LayerNorm(width) if config.norm == "pre" else nn.Identity()

    def forward(self, history: History, table: Tensor) -> Tensor:
        """A history of (B, L) events → (B, E), or (B, M, E) for members. The last layer computes only what is read out."""
        if not (self.recalls and table.is_cpu) or torch.compiler.is_exporting():
            return self._read(history, table)
        at_once = max(1, _tokens_at_once() // history.padding.shape[1])
        if len(history.padding) <= at_once:
            return self._read(history, table)
        # a few payments at a time: their values stay in the processor's cache
        return torch.cat([self._read(part, table) for part in history.split(at_once)])

    def aged(self, events: Tensor, age_seconds: Tensor, padding: Tensor | None = None) -> Tensor:
        """Events as embedded (B, L, E), each with what its age (B, L) is encoded as, where there is such an encoding."""
        if self.age is None:
            return events
        if padding is not None:
            age_seconds = age_seconds.masked_fill(padding, 0.0)
        days = age_seconds.clamp(0.0, OLDEST_SECONDS) / DAY_SECONDS
        aged: Tensor = events + self.age(torch.log1p(days).to(events.dtype))
        return aged

    def sequence(self, history: History, table: Tensor) -> Tensor:
        """All positions: (B, L, E), or (B, L + 1, E) with the learned token last. For order_attention="self" only."""
        x, around = self._start(history, table)
        out: Tensor = self.last_norm(self.layers(x, around))
        return out

    def around(self, padding: Tensor, age_seconds: Tensor) -> AttentionContext:
        """What the layers need to know of a history's tokens: padding and ages (B, L)."""
        return AttentionContext.of(
            padding, age_seconds, self.time, last_only=self.recalls, cap_seconds=self.cap_seconds
        )

    def _read(self, history: History, table: Tensor) -> Tensor:
        x, around = self._start(history, table)
        out: Tensor = self.last_norm(self.layers.last(x, around))
        return out

    def _start(self, history: History, table: Tensor) -> tuple[Tensor, AttentionContext]:
        padding, age = history.padding, history.age_seconds
        x = self.aged(self.events(history, table), age, padding)
        if self.token is not None:
            x = torch.cat([x, self.token.to(x.dtype).expand(x.shape[0], 1, -1)], dim=1)
            padding, age = functional.pad(padding, (0, 1)), functional.pad(age, (0, 1))
        else:
            # the current event is always there: without this a row that is all padding would have nothing to see
            padding = functional.pad(padding[:, :-1], (0, 1))
        return self.norm(x), self.around(padding, age)
