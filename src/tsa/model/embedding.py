"""Embed the features of each event into one vector."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.batch import History
from tsa.model.config import ModelConfig
from tsa.model.feature_aggregation import FeatureAggregation
from tsa.model.time_encoding import OLDEST_SECONDS
from tsa.times import DAY_SECONDS

OUTCOMES = 4  # padding, not known, genuine, fraud
LOG_AGE_SCALE = 0.3  # log1p of an age in hours reaches about 8; this brings it to the range of scaled features
FEW_FEATURES = 16  # up to this many are added one by one in an exported graph, which is faster
AGE_DAYS, MAX_AGE = 20.0, 4.0  # unit and limit of the linear age: months remain distinct


def numerical_rows(table: Tensor, n_numerical: int) -> Tensor:
    """The vectors of the numerical features in the shared table (N + 2, D): rows N − F + 1 … N, (F, D)."""
    return table[len(table) - 1 - n_numerical : len(table) - 1]


def summed_rows(rows: Tensor, table: Tensor) -> Tensor:
    """Σ over the features of the table's rows, none of them expanded: rows (n, C) int, table (N, D) → (n, D)."""
    if rows.shape[1] == 0:
        return table.new_zeros(rows.shape[0], table.shape[1])
    if torch.compiler.is_exporting():  # ONNX has no embedding_bag; row 0 is zero, so padding adds nothing
        if rows.shape[1] > FEW_FEATURES:
            return functional.embedding(rows, table).sum(1)
        first, *rest = (functional.embedding(column, table) for column in rows.unbind(1))
        return sum(rest, start=first)
    return functional.embedding_bag(rows, table, mode="sum", padding_idx=0)


class AggregatedEvents(nn.Module):
    """The reference: linear layers over the feature axis, separate for categorical and numerical features."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        floor = config.aggregation_floor
        self.categorical = FeatureAggregation(config.n_categorical, floor) if config.n_categorical else None
        self.numerical = FeatureAggregation(config.n_numerical, floor) if config.n_numerical else None
        self.norm = nn.LayerNorm(config.event_width)

    def forward(self, history: History, table: Tensor) -> Tensor:
        """A history of (B, L) events and the shared table (N + 2, D) → (B, L, 2D)."""
        rows, values = history.categorical.flatten(0, 1), history.numerical.flatten(0, 1)
        zeros = table.new_zeros(rows.shape[0], table.shape[1])
        left = zeros if self.categorical is None else self.categorical.of_rows(rows, table)
        values = values.masked_fill(history.padding.flatten().unsqueeze(-1), 0.0)
        vectors = numerical_rows(table, values.shape[1])
        right = zeros if self.numerical is None else self.numerical.of_values(values, vectors)
        out: Tensor = self.norm(torch.cat([left, right], dim=-1).view(*history.padding.shape, 2 * table.shape[1]))
        return out


class FactorisedEvents(nn.Module):
    """As `AggregatedEvents`, with factorisation machines (Rendle 2010) in place of the linear layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.event_width)

    def forward(self, history: History, table: Tensor) -> Tensor:
        """A history of (B, L) events and the shared table (N + 2, D) → (B, L, 2D)."""
        rows, values = history.categorical.flatten(0, 1), history.numerical.flatten(0, 1)
        values = values.masked_fill(history.padding.flatten().unsqueeze(-1), 0.0)
        vectors = numerical_rows(table, values.shape[1])
        left = summed_rows(rows, table).square() - summed_rows(rows, table.square())
        right = (values @ vectors).square() - values.square() @ vectors.square()
        both = 0.5 * torch.cat([left, right], dim=-1)
        out: Tensor = self.norm(both.view(*history.padding.shape, 2 * table.shape[1]))
        return out


class EventParts(NamedTuple):
    """The inputs of `SummedEvents`."""

    numbers: Tensor
    """(…, 3V + 2 + M)"""
    categorical: Tensor
    """(…, C)"""
    same: Tensor | None
    """(…, `n_match_features` + `n_match_keys`)"""
    outcome: Tensor | None
    """(…)"""

    def of(self, events: Tensor) -> EventParts:
        """The parts of the events with these indices (n,) among all B · L."""

        def some(part: Tensor) -> Tensor:
            return part.flatten(0, 1).index_select(0, events)

        same, outcome = (None if part is None else some(part) for part in (self.same, self.outcome))
        return EventParts(some(self.numbers), some(self.categorical), same, outcome)


class SummedEvents(nn.Module):
    """Σ of the embeddings of categorical values, of the known outcome and of all numbers; then a small feed-forward.

    The numbers of an event are its V numerical features, their differences from the current event's and from the history's
    mean, and its age on a logarithmic and a linear scale, each also in periodic form (Gorishniy et al. 2022), and M missing
    indicators. The mean is given as an input because training does not learn it reliably.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, n_waving = config.event_width, 3 * (config.n_numerical - config.n_missing_indicators) + 2
        self.n_missing_indicators = config.n_missing_indicators
        self.frequency = nn.Parameter(
            torch.randn(n_waving, config.n_frequencies) * (2 * math.pi * config.frequency_scale)
        )
        self.linear = nn.Linear(n_waving * (2 * config.n_frequencies + 1) + config.n_missing_indicators, width)
        self.n_match_features = config.n_match_features
        self.n_match_keys = config.n_match_keys
        n_matches = config.n_match_features + config.n_match_keys
        self.match = nn.Linear(n_matches, width, bias=False) if n_matches else None
        self.outcome = nn.Embedding(OUTCOMES, width, padding_idx=0) if config.known_outcomes else None
        self.norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        if self.outcome is not None:
            # large enough to matter next to the numbers from the first step on
            nn.init.normal_(self.outcome.weight, std=0.5)

    def forward(self, history: History, table: Tensor) -> Tensor:
        """A history of (B, L) events and the shared table (N + 2, D) → (B, L, D)."""
        same = None if self.match is None else self.same(history)
        parts = EventParts(self.numbers(history), history.categorical, same, history.outcome)
        # in training only: the rounding of a score must not depend on the other payments of its batch
        if self.training and table.is_cpu and not torch.compiler.is_compiling():
            return self._without_padding(history.padding, parts, table)
        return self._embedded(parts, table)

    def _without_padding(self, padding: Tensor, parts: EventParts, table: Tensor) -> Tensor:
        """As `_embedded`, skipping padding (B, L), whose result is 0: (B, L, D)."""
        visible = torch.nonzero(~padding.flatten()).squeeze(1)
        embedded = self._embedded(parts.of(visible), table)
        padded = embedded.new_zeros(padding.numel(), embedded.shape[-1])
        return padded.index_copy(0, visible, embedded).view(*padding.shape, -1)

    def _embedded(self, parts: EventParts, table: Tensor) -> Tensor:
        """(…, D) of the parts of events."""
        x = self.of_numbers(parts.numbers)
        x = x + summed_rows(parts.categorical.flatten(0, -2), table).view(x.shape)
        if self.match is not None and parts.same is not None:
            x = x + self.match(parts.same.to(x.dtype))
        if self.outcome is not None and parts.outcome is not None:
            x = x + functional.embedding(parts.outcome.int(), self.outcome.weight)
        return self.mix(x)

    def of_numbers(self, numbers: Tensor) -> Tensor:
        """The numbers (…, 3V + 2 + M) of events, as they are and periodically, through one linear layer: (…, D)."""
        each = len(self.frequency)
        if torch.compiler.is_exporting():  # for engines that fuse little: fewer and larger steps, no copies
            n, first = self.frequency.numel(), each + self.n_missing_indicators
            spread = (torch.eye(first, each).unsqueeze(-1) * self.frequency).flatten(1)  # one block per number
            angle, weight = numbers @ spread, self.linear.weight.t()
            own, sines = numbers @ weight[:first], angle.sin() @ weight[first : first + n]
            return own + sines + angle.cos() @ weight[first + n :] + self.linear.bias
        angle = (numbers[..., :each].unsqueeze(-1) * self.frequency).flatten(-2)
        out: Tensor = self.linear(torch.cat([numbers, angle.sin(), angle.cos()], dim=-1))
        return out

    def mix(self, x: Tensor) -> Tensor:
        """The feed-forward after the sum of an event's parts: (…, D) → (…, D)."""
        out: Tensor = x + self.narrow(functional.gelu(self.widen(self.norm(x))))
        return out

    def same(self, history: History) -> Tensor:
        """(B, L, `n_match_features` + `n_match_keys`) bool: whether an event has the current event's value, or key; False at
        padding and for missing values.
        """
        parts = [] if history.same_key is None or not self.n_match_keys else [history.same_key]
        if self.n_match_features:
            values = history.categorical[..., : self.n_match_features]
            current = values[:, -1:]
            parts.insert(0, (values == current) & (current != 0))
        matches: Tensor = torch.cat(parts, dim=-1)
        return matches & ~history.padding.unsqueeze(-1)

    def numbers(self, history: History) -> Tensor:
        """(B, L, 3V + 2 + M): values, differences, ages, missing indicators. Meaningless at padding."""
        known = history.numerical.masked_fill(history.padding.unsqueeze(-1), 0.0)
        age_seconds = history.age_seconds.masked_fill(history.padding, 0.0).clamp(0.0, OLDEST_SECONDS)
        age_days = age_seconds.unsqueeze(-1) / DAY_SECONDS
        scales = torch.log1p(24.0 * age_days) * LOG_AGE_SCALE, (age_days / AGE_DAYS).clamp(max=MAX_AGE)
        n_values = known.shape[-1] - self.n_missing_indicators
        values, marks = known[..., :n_values], known[..., n_values:]
        away = values - values[:, -1:], values - history_mean(values, history.padding)
        return torch.cat([values, *away, *scales, marks], dim=-1)


def history_mean(values: Tensor, padding: Tensor) -> Tensor:
    """The mean over the events before the current one; the current event's values if there are none.

    values (B, L, V), 0 at padding; padding (B, L) → (B, 1, V).
    """
    n = (~padding[:, :-1]).sum(1).view(-1, 1, 1)
    mean = values[:, :-1].sum(1, keepdim=True) / n.clamp(min=1)
    return torch.where(n > 0, mean, values[:, -1:])


def event_embedding(config: ModelConfig) -> nn.Module:
    """The event embedding of a configuration."""
    kinds = {"aggregate": AggregatedEvents, "factorise": FactorisedEvents, "sum": SummedEvents}
    return kinds[config.event_embedding](config)
