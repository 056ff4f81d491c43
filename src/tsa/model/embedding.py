"""From the features of each event to one vector per event.

Knows the shared table; not the other events of the history.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.aggregation import FeatureAggregation
from tsa.model.batch import History
from tsa.model.config import ModelConfig
from tsa.model.time import HOUR_SECONDS, PeriodicEmbedding

OUTCOMES = 4  # padding, not known, genuine, fraud


def numerical_rows(table: Tensor, n_numerical: int) -> Tensor:
    """The vectors of the numerical features in the shared table (N + 2, D): rows N − F + 1 … N, (F, D)."""
    return table[len(table) - 1 - n_numerical : len(table) - 1]


def summed_rows(rows: Tensor, table: Tensor) -> Tensor:
    """Σ over the features of the table's rows, none of them expanded: rows (n, C) int, table (N, D) → (n, D)."""
    if rows.shape[1] == 0:
        return table.new_zeros(len(rows), table.shape[1])
    return functional.embedding_bag(rows, table, mode="sum", padding_idx=0)


class AggregatedEvents(nn.Module):
    """The reference: the embeddings of an event folded over the feature axis, categorical and numerical apart."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        floor = config.aggregation_floor
        self.categorical = FeatureAggregation(config.n_categorical, floor) if config.n_categorical else None
        self.numerical = FeatureAggregation(config.n_numerical, floor) if config.n_numerical else None
        self.norm = nn.LayerNorm(config.event_width)

    def forward(self, history: History, table: Tensor) -> Tensor:
        """A history of (B, L) events and the shared table (N + 2, D) → (B, L, 2D)."""
        rows, values = history.categorical.flatten(0, 1), history.numerical.flatten(0, 1)
        nothing = table.new_zeros(len(rows), table.shape[1])
        left = nothing if self.categorical is None else self.categorical.of_rows(rows, table)
        vectors = numerical_rows(table, values.shape[1])
        right = nothing if self.numerical is None else self.numerical.of_values(values, vectors)
        out: Tensor = self.norm(torch.cat([left, right], dim=-1).view(*history.padding.shape, -1))
        return out


class FactorisedEvents(nn.Module):
    """As `AggregatedEvents`, with factorisation machines (Rendle 2010) in place of the linear layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.event_width)

    def forward(self, history: History, table: Tensor) -> Tensor:
        """A history of (B, L) events and the shared table (N + 2, D) → (B, L, 2D)."""
        rows, values = history.categorical.flatten(0, 1), history.numerical.flatten(0, 1)
        vectors = numerical_rows(table, values.shape[1])
        left = summed_rows(rows, table).square() - summed_rows(rows, table.square())
        right = (values @ vectors).square() - values.square() @ vectors.square()
        out: Tensor = self.norm((0.5 * torch.cat([left, right], dim=-1)).view(*history.padding.shape, -1))
        return out


class SummedEvents(nn.Module):
    """Σ of the embeddings of categorical values, numbers (a linear and a periodic one), age and known outcome."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n, width = config.n_numerical, config.event_width
        periodic = config.n_frequencies, config.frequency_scale
        self.linear = nn.Linear(n, width) if n else None
        self.periodic = PeriodicEmbedding(n, width, *periodic) if n else None
        self.age = PeriodicEmbedding(1, width, *periodic)
        self.outcome = nn.Embedding(OUTCOMES, width, padding_idx=0) if config.known_outcomes else None

    def forward(self, history: History, table: Tensor) -> Tensor:
        """A history of (B, L) events and the shared table (N + 2, D) → (B, L, D)."""
        shape = history.padding.shape
        age_hours = history.age_seconds.masked_fill(history.padding, 0.0).unsqueeze(-1) / HOUR_SECONDS
        out: Tensor = self.age(torch.log1p(age_hours))
        out = out + summed_rows(history.categorical.flatten(0, 1), table).view(*shape, -1)
        if self.linear is not None and self.periodic is not None:
            out = out + self.linear(history.numerical) + self.periodic(history.numerical)
        if self.outcome is not None and history.outcome is not None:
            out = out + self.outcome(history.outcome.int())
        return out


def event_embedding(config: ModelConfig) -> nn.Module:
    """The embedding of events that the configuration names."""
    kinds = {"aggregate": AggregatedEvents, "factorise": FactorisedEvents, "sum": SummedEvents}
    return kinds[config.event_embedding](config)
