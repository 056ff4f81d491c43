"""From one embedding per history to one for the payment.

Knows the order attentions it is handed and how much each history matters; not what is in them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tsa.model.batch import History
from tsa.model.config import ModelConfig
from tsa.model.dropout import dropout
from tsa.model.order_attention import OrderAttention
from tsa.model.padding import pad_rows

Encode = Callable[[int, History], Tensor]  # number of the history, its events (B, L) → (B, E)


class IdentityFusion(nn.Module):
    """One history: its embedding as it is."""

    def forward(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, E), or (B, M, E) for members."""
        return encode(0, histories[0])


class ConcatFusion(nn.Module):
    """All embeddings side by side."""

    def forward(self, histories: list[History], encode: Encode) -> Tensor:
        """n histories → (B, n · E), or (B, M, n · E) for members."""
        return torch.cat([encode(k, history) for k, history in enumerate(histories)], dim=-1)


class SoftmaxFusion(nn.Module):
    """[g_1 · embedding_1 | … | g_n · embedding_n], the importances g a softmax over what a small network makes of all.

    Side by side rather than summed: what the histories say apart is not lost, and g still tells how much each counted.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n, width = len(config.histories), config.event_width
        self.gate = GateHead(n * width, config.gate_hidden_width, n, config.dropout)

    def forward(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, n · E), or (B, M, n · E) for members, whose importances are their own."""
        orders = torch.stack([encode(k, history) for k, history in enumerate(histories)], dim=-2)
        importance = torch.softmax(self.gate(orders.flatten(-2)), dim=-1)
        return (len(histories) * importance.unsqueeze(-1) * orders).flatten(-2)


class GateHead(nn.Module):
    """Linear, ReLU, dropout, Linear: (B, n_in) → (B, n_out)."""

    def __init__(self, n_in: int, hidden: int, n_out: int, dropout: float) -> None:
        super().__init__()
        self.widen, self.narrow, self.dropout = nn.Linear(n_in, hidden), nn.Linear(hidden, n_out), dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in) → (B, n_out)."""
        out: Tensor = self.narrow(dropout(torch.relu(self.widen(x)), self.dropout, self.training))
        return out


class GatedFusion(nn.Module):
    """The reference: a small order attention looks at all histories first and says how much each matters.

    A history other than the first that holds nothing but the current event gets importance 0. An order attention runs
    only for the payments where its history's importance exceeds `gate_threshold`; elsewhere its embedding is 0. The
    first history's always runs.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        small = gate_config(config)
        self.skips_below = config.gate_threshold
        self.width = config.event_width
        self.table = nn.Embedding(config.n_embedding + 2, config.gate_width, padding_idx=0)
        self.order = OrderAttention(small)
        n = len(config.histories)
        self.head = GateHead(n * small.event_width, config.gate_hidden_width, n, config.dropout)
        self.norm = nn.LayerNorm(config.event_width)

    def importance(self, histories: list[History]) -> Tensor:
        """Softmax over the n histories, before the rule for those that hold nothing else: (B, n)."""
        small = torch.cat([self.order(history, self.table.weight) for history in histories], dim=-1)
        return torch.softmax(self.head(small), dim=-1)

    def forward(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, E)."""
        importance = self.importance(histories)
        alone = torch.stack([(~history.padding).sum(1) <= 1 for history in histories], dim=1)
        alone[:, 0] = False
        importance = importance.masked_fill(alone, 0.0)
        total = importance[:, :1] * encode(0, histories[0])
        for k in range(1, len(histories)):
            if torch.compiler.is_exporting():  # a graph for other engines computes all, and leaves out by a factor
                counted = torch.where(importance[:, k, None] > self.skips_below, importance[:, k, None], 0.0)
                total = total + counted * encode(k, histories[k])
                continue
            wanted = (importance[:, k] > self.skips_below).nonzero()[:, 0]
            if not len(wanted) and not self.training:  # in training no rows still give gradients, of zero
                continue
            encoded = encode(k, histories[k].select(pad_rows(wanted, len(importance))))[: len(wanted)]
            part = importance[wanted, k, None] * encoded
            total = total.index_add(0, wanted, part.to(total.dtype))
        out: Tensor = self.norm(total)
        return out


def gate_config(config: ModelConfig) -> ModelConfig:
    """The small order attention of the gate: one head, one post-norm layer, no time."""
    return config.replace(
        width=config.gate_width,
        n_heads=1,
        n_order_layers=1,
        feedforward_width=config.gate_feedforward_width,
        event_embedding="aggregate",
        known_outcomes=False,
        n_match_features=0,
        norm="post",
        time_attention="none",
        time_encoding=False,
        pooling="cls",
        n_experts=config.n_experts if "gate" in config.experts_in else 0,
        n_expert_groups=config.n_expert_groups if "gate" in config.experts_in else 1,
        experts_in=("order",),
    )


def make_fusion(config: ModelConfig) -> nn.Module:
    """The way the configuration names; one history needs none."""
    if len(config.histories) == 1:
        return IdentityFusion()
    kinds = {"gate": GatedFusion, "softmax": SoftmaxFusion}
    return ConcatFusion() if config.fusion == "concat" else kinds[config.fusion](config)
