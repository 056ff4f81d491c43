"""Combine the embeddings of several histories into one per payment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tsa.model.batch import History
from tsa.model.batch_invariance import pad_rows
from tsa.model.config import ModelConfig
from tsa.model.dropout import dropout
from tsa.model.order_attention import OrderAttention

Encode = Callable[[int, History], Tensor]  # number of the history, its events (B, L) → (B, E)


class IdentityFusion(nn.Module):
    """For one history: its embedding unchanged."""

    def forward(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, E), or (B, M, E) for members."""
        return encode(0, histories[0])

    def weights(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, 1) ones."""
        return histories[0].age_seconds.new_ones(len(histories[0].padding), 1)


class ConcatFusion(nn.Module):
    """The embeddings concatenated."""

    def weights(self, histories: list[History], encode: Encode) -> None:
        """None: no history has a weight of its own."""

    def forward(self, histories: list[History], encode: Encode) -> Tensor:
        """n histories → (B, n · E), or (B, M, n · E) for members."""
        return torch.cat([encode(k, history) for k, history in enumerate(histories)], dim=-1)


class SoftmaxFusion(nn.Module):
    """[g_1 · embedding_1 | … | g_n · embedding_n], with importances g from a small network that reads all embeddings.

    They are concatenated and not summed, so that the classifier can still distinguish the histories.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n, width = len(config.histories), config.event_width
        self.floor = config.fusion_floor
        self.gate = GateHead(n * width, config.gate_hidden_width, n, config.dropout)

    def forward(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, n · E), or (B, M, n · E) for members, each with its own importances."""
        orders = torch.stack([encode(k, history) for k, history in enumerate(histories)], dim=-2)
        importance = self.importance(orders.flatten(-2))
        return (len(histories) * importance.unsqueeze(-1) * orders).flatten(-2)

    def weights(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, n) the importance of each history, the mean of the members."""
        orders = torch.stack([encode(k, history) for k, history in enumerate(histories)], dim=-2)
        importance = self.importance(orders.flatten(-2))
        return importance.mean(1) if importance.ndim == 3 else importance

    def importance(self, orders: Tensor) -> Tensor:
        """(…, n · E) → (…, n): the weight of each history, `fusion_floor` / n at least, with sum 1."""
        importance = torch.softmax(self.gate(orders), dim=-1)
        return self.floor / importance.shape[-1] + (1.0 - self.floor) * importance if self.floor else importance


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
    """The reference: a small order attention reads all histories first and gives each an importance.

    A history with only the current event gets importance 0, except the first. A history's order attention runs only
    for payments whose importance exceeds `gate_threshold`, else its embedding is 0. The first history's always runs.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        small = gate_config(config)
        self.min_importance = config.gate_threshold
        self.width = config.event_width
        self.table = nn.Embedding(config.n_embedding + 2, config.gate_width, padding_idx=0)
        self.order = OrderAttention(small)
        n = len(config.histories)
        self.head = GateHead(n * small.event_width, config.gate_hidden_width, n, config.dropout)
        self.norm = nn.LayerNorm(config.event_width)

    def importance(self, histories: list[History]) -> Tensor:
        """Softmax over the n histories, before the rule for histories with only the current event: (B, n)."""
        small = torch.cat([self.order(history, self.table.weight) for history in histories], dim=-1)
        return torch.softmax(self.head(small), dim=-1)

    def weights(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, n) the importances, 0 for histories with only the current event, except the first."""
        is_single = torch.stack([(~history.padding).sum(1) <= 1 for history in histories], dim=1)
        is_single[:, 0] = False
        return self.importance(histories).masked_fill(is_single, 0.0)

    def forward(self, histories: list[History], encode: Encode) -> Tensor:
        """→ (B, E)."""
        importance = self.weights(histories, encode)
        total = importance[:, :1] * encode(0, histories[0])
        for k in range(1, len(histories)):
            if torch.compiler.is_exporting():  # an exported graph computes all histories, with a factor of 0
                counted = torch.where(importance[:, k, None] > self.min_importance, importance[:, k, None], 0.0)
                total = total + counted * encode(k, histories[k])
                continue
            active = (importance[:, k] > self.min_importance).nonzero()[:, 0]
            if not len(active) and not self.training:  # in training, empty rows still give zero gradients
                continue
            encoded = encode(k, histories[k].select(pad_rows(active, len(importance))))[: len(active)]
            part = importance[active, k, None] * encoded
            total = total.index_add(0, active, part.to(total.dtype))
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
        n_match_keys=0,
        norm="post",
        time_attention="none",
        time_encoding=False,
        pooling="cls",
        n_experts=config.n_experts if "gate" in config.experts_in else 0,
        n_expert_groups=config.n_expert_groups if "gate" in config.experts_in else 1,
        experts_in=("order",),
    )


def make_fusion(config: ModelConfig) -> nn.Module:
    """The fusion of a configuration."""
    if len(config.histories) == 1:
        return IdentityFusion()
    kinds = {"gate": GatedFusion, "softmax": SoftmaxFusion}
    return ConcatFusion() if config.fusion == "concat" else kinds[config.fusion](config)
