"""Split the embedded events of a history into parts, one vector per event and feature, and join them again.

Actual and neutral events have the same parts, so that a straight line connects them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.data.history import UNKNOWN_OUTCOME
from tsa.explain.baseline import Baseline
from tsa.model.batch import History
from tsa.model.embedding import AggregatedEvents, SummedEvents, numerical_rows
from tsa.model.feature_aggregation import FeatureAggregation, factorization_machine

Kind = Literal["categorical", "numerical", "key", "outcome", "base"]


@dataclass(frozen=True)
class EmbeddingPart:
    """The meaning of one of the P parts of an event: a column of its array, whether it has the current
    event's key, its known outcome, or the constant part."""

    kind: Kind
    column: int = 0


def part_names(events: nn.Module, history: History) -> list[EmbeddingPart]:
    """The P parts in the order of `actual_parts`."""
    parts = [EmbeddingPart("categorical", column) for column in range(history.categorical.shape[-1])]
    parts += [EmbeddingPart("numerical", column) for column in range(history.numerical.shape[-1])]
    if isinstance(events, SummedEvents):
        parts += [EmbeddingPart("key", column) for column in range(events.n_match_keys)]
        parts += [EmbeddingPart("outcome")] if events.outcome is not None and history.outcome is not None else []
        parts += [EmbeddingPart("base")]
    return parts


def actual_parts(events: nn.Module, history: History, table: Tensor) -> Tensor:
    """A history of (B, L) events and the table (N + 2, D) → (B, L, P, D)."""
    vectors = functional.embedding(history.categorical, table)
    if not isinstance(events, SummedEvents):
        return _feature_vectors(vectors, history.numerical, table)
    return _summands(events, vectors, events.same(history).to(table.dtype), history)


def neutral_parts(events: nn.Module, history: History, table: Tensor, neutral: Baseline) -> Tensor:
    """The same events at the same times, but with neutral values that match the current one, and without known outcome."""
    shape = history.padding.shape
    vectors = neutral.vectors(table).expand(*shape, -1, -1)
    numbers = neutral.numerical.to(table).expand(*shape, -1)
    if not isinstance(events, SummedEvents):
        return _feature_vectors(vectors, numbers, table)
    outcome = None if history.outcome is None else torch.full_like(history.outcome, UNKNOWN_OUTCOME)
    same = table.new_ones(*shape, events.n_match_features)
    if events.n_match_keys and history.same_key is not None:  # a key that the current event lacks is never the same
        same = torch.cat([same, history.same_key[:, -1:].to(table.dtype).expand(*shape, -1)], dim=-1)
    return _summands(events, vectors, same, replace(history, numerical=numbers, outcome=outcome))


def joined(events: nn.Module, parts: Tensor) -> Tensor:
    """The parts (B, L, P, D) as the embedding reads them: their sum (B, L, D) if it adds them up, else all of them.

    Each term has the gradient of the sum, so the sum is exact and faster.
    """
    return parts.sum(-2) if isinstance(events, SummedEvents) else parts


def embedded(events: nn.Module, parts: Tensor, n_categorical: int) -> Tensor:
    """The embedded events made from joined parts: (B, L, E)."""
    if isinstance(events, SummedEvents):
        return events.mix(parts)
    categorical, numerical = parts[..., :n_categorical, :], parts[..., n_categorical:, :]
    if isinstance(events, AggregatedEvents):
        halves = [_aggregated(events.categorical, categorical), _aggregated(events.numerical, numerical)]
    else:
        halves = [factorization_machine(categorical), factorization_machine(numerical)]
    norm: nn.Module = events.norm  # type: ignore[assignment]
    out: Tensor = norm(torch.cat(halves, dim=-1))
    return out


def _feature_vectors(vectors: Tensor, numbers: Tensor, table: Tensor) -> Tensor:
    """The vector of each feature: that of its value, or its number times its vector."""
    return torch.cat([vectors, numbers.unsqueeze(-1) * numerical_rows(table, numbers.shape[-1])], dim=-2)


def _aggregated(fold: FeatureAggregation | None, vectors: Tensor) -> Tensor:
    """(B, L, n, D) → (B, L, D)."""
    batch, length, _, width = vectors.shape
    if fold is None:
        return vectors.new_zeros(batch, length, width)
    out: Tensor = fold(vectors.flatten(0, 1).transpose(0, 1).flatten(1))
    return out.view(batch, length, width)


def _summands(events: SummedEvents, vectors: Tensor, same: Tensor, history: History) -> Tensor:
    """The terms of the sum: per categorical feature, per number and its distances, per key, the outcome, age and biases."""
    each = _of_numbers(events, events.numbers(history))
    n = history.numerical.shape[-1] - events.n_missing_indicators
    keys = []
    if events.match is not None:
        matches = same.unsqueeze(-1) * events.match.weight.t()
        of_values, of_keys = matches[..., : events.n_match_features, :], matches[..., events.n_match_features :, :]
        vectors = vectors + functional.pad(of_values, (0, 0, 0, vectors.shape[-2] - events.n_match_features))
        keys = [of_keys]
    values = each[..., :n, :] + each[..., n : 2 * n, :] + each[..., 2 * n : 3 * n, :]
    terms = [vectors, values, each[..., 3 * n + 2 :, :], *keys]
    if events.outcome is not None and history.outcome is not None:
        terms.append(functional.embedding(history.outcome.int(), events.outcome.weight).unsqueeze(-2))
    base = each[..., 3 * n : 3 * n + 2, :].sum(-2, keepdim=True) + events.linear.bias
    return torch.cat([*terms, base], dim=-2)


def _of_numbers(events: SummedEvents, numbers: Tensor) -> Tensor:
    """The linear map's output for each number separately: (B, L, m) → (B, L, m, E). Missing indicators have no periodic
    terms.
    """
    n, k = events.frequency.shape
    plain, sine, cosine = torch.split(events.linear.weight, [numbers.shape[-1], n * k, n * k], dim=1)
    angle = numbers[..., :n].unsqueeze(-1) * events.frequency
    waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
    weights = torch.cat([sine.reshape(-1, n, k), cosine.reshape(-1, n, k)], dim=-1)
    moved = torch.einsum("blnk,enk->blne", waves, weights)
    out: Tensor = numbers.unsqueeze(-1) * plain.t() + functional.pad(moved, (0, 0, 0, events.n_missing_indicators))
    return out
