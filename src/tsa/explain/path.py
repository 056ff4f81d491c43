"""`InterpolationPath`: the network as a function of a payment's inputs, from a neutral payment without histories.

The network reads a payment in several places (events of each history, tokens of current features, numbers). Each has an
actual and a neutral value; attention to an earlier event is scaled by its presence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.explain.baseline import Baseline
from tsa.explain.embedding_parts import actual_parts, embedded, joined, neutral_parts
from tsa.model import Batch, History, TSANetwork
from tsa.model.cross_attention import CrossAttention
from tsa.model.embedding import numerical_rows
from tsa.model.fusion import GatedFusion, SoftmaxFusion
from tsa.model.network_ensemble import concat_members, mean_over_members
from tsa.model.order_attention import OrderAttention
from tsa.model.temporal_attention import AttentionContext, AttentionLayer

POWER = 4
"""Presence is u⁴ with u moving evenly from 0 to 1, since attention shifts to many events long before u = 0.5."""
ABSENT = 1e-9  # u of an absent event: its weight e^−83 is negligible, and the logarithm of 0 is avoided


@dataclass(frozen=True)
class InputSite:
    """The places where the network reads the payment.

    events    (1, L, P, D) the parts of a history's events, or (1, L, D) their sum where the embedding adds them up
    gate      (1, L, P, D) the same, in the gate's embedding
    presence  (1, L − 1)   the presence of each earlier event
    tokens    (1, C + F + G + 1, D) the current features in the feature attention
    numbers   (1, F + G)   the current numbers in the MLP branch
    """

    kind: str
    history: int = 0


class InterpolationPath:
    """The network as a function of the values of one payment in each of `places`, from `neutral` to `actual`."""

    def __init__(self, network: TSANetwork, batch: Batch, neutral: Baseline) -> None:
        """batch: of one payment, its histories without padding."""
        self.network = network
        batch = batch.to_dtype(network.table.weight.dtype)
        self.histories = batch.ordered_histories(network.config)
        self.engineered = batch.engineered
        with torch.no_grad():
            self._parts: dict[InputSite, Tensor] = {}
            ends = dict(self._ends(neutral))
            self.places = list(ends)
            self.actual = tuple(actual for actual, _ in ends.values())
            self.neutral = tuple(value for _, value in ends.values())
            self._runs = self._which_run()

    def way(self, place: InputSite) -> Tensor:
        """The difference between actual and neutral values of a place, per part for events: (1, …)."""
        at = self.places.index(place)
        return self._parts.get(place, self.actual[at] - self.neutral[at])

    def __call__(self, *values: Tensor) -> Tensor:
        """The log odds of fraud for n states of the payment: values (n, …), one for each place → (n,)."""
        ensemble = self._ensemble(dict(zip(self.places, values, strict=True)))
        return log_odds(mean_over_members(self.network.classifier(ensemble)))

    def embeddings(self, k: int) -> Iterator[tuple[InputSite, nn.Module]]:
        """The places where the events of history k are read, and their embeddings."""
        yield InputSite("events", k), self._orders[k].events
        if isinstance(self.network.combine, GatedFusion):
            yield InputSite("gate", k), self.network.combine.order.events

    def importances(self) -> Tensor | None:
        """The weight of each history: (n histories,), with sum 1, or less if the gate leaves one out; None for a network
        without weights."""
        at, combine = dict(zip(self.places, self.actual, strict=True)), self.network.combine
        with torch.no_grad():
            if isinstance(combine, GatedFusion):
                runs = torch.tensor(self._runs, device=self.actual[0].device)
                return (self._gate(combine, at) * runs)[0]
            if isinstance(combine, SoftmaxFusion):
                orders = [self._order(order, at, "events", k) for k, order in enumerate(self._orders)]
                return combine.importance(torch.cat(orders, dim=-1)).flatten(0, -2).mean(0)
        return torch.ones(1) if len(self.histories) == 1 else None

    def attention(self) -> list[Tensor]:
        """Per history the weight of each event in the last attention layer, mean over heads: (L,)."""
        at = dict(zip(self.places, self.actual, strict=True))
        with torch.no_grad():
            weights = []
            for k, order in enumerate(self._orders):
                x, context = self._tokens(order, at, "events", k)
                weights.append(_last_weights(order, x, context)[0].mean(0)[: at[InputSite("events", k)].shape[1]])
        return weights

    @property
    def _orders(self) -> list[OrderAttention]:
        return [order for order in self.network.order if isinstance(order, OrderAttention)]

    def _ends(self, neutral: Baseline) -> Iterator[tuple[InputSite, tuple[Tensor, Tensor]]]:
        network, table = self.network, self.network.table.weight
        for k, (order, history) in enumerate(zip(self._orders, self.histories, strict=True)):
            yield InputSite("events", k), self._add_event_site(InputSite("events", k), order, table, neutral)
            if isinstance(network.combine, GatedFusion):
                gate = network.combine
                yield (
                    InputSite("gate", k),
                    self._add_event_site(InputSite("gate", k), gate.order, gate.table.weight, neutral),
                )
            there = table.new_ones(1, history.padding.shape[1] - 1)
            yield InputSite("presence", k), (there, torch.zeros_like(there))
        current = self.histories[0].categorical[:, -1], self.histories[0].numerical[:, -1], self.engineered
        if network.feature is not None:
            tokens = network.feature.tokens(*current, table)
            yield InputSite("tokens"), (tokens, tokens + self._token_steps(neutral))
        if network.mlp is not None:
            parts = [part for part in current[1:] if part is not None]
            at_rest = [neutral.numerical, *([neutral.engineered] if self.engineered is not None else [])]
            yield InputSite("numbers"), (torch.cat(parts, -1), torch.cat(at_rest).to(table)[None])

    def _add_event_site(
        self, place: InputSite, order: OrderAttention, table: Tensor, neutral: Baseline
    ) -> tuple[Tensor, Tensor]:
        """Set both ends for the events of a history, and store their parts."""
        history = self.histories[place.history]
        actual = actual_parts(order.events, history, table)
        start = neutral_parts(order.events, history, table, neutral)
        self._parts[place] = actual - start
        return joined(order.events, actual), joined(order.events, start)

    def _token_steps(self, neutral: Baseline) -> Tensor:
        """From the tokens of the current features to neutral ones; the biases and the read-out token do not change: (1, T, D)."""
        table, feature = self.network.table.weight, self.network.feature
        assert feature is not None
        current = self.histories[0]
        steps = [neutral.vectors(table) - functional.embedding(current.categorical[0, -1], table)]
        away = neutral.numerical.to(table) - current.numerical[0, -1]
        steps.append(away.unsqueeze(-1) * numerical_rows(table, len(away)))
        if self.engineered is not None:
            further = neutral.engineered.to(table) - self.engineered[0]
            steps.append(further.unsqueeze(-1) * feature.engineered[1:])
        return torch.cat([*steps, table.new_zeros(1, table.shape[1])])[None]

    def _ensemble(self, at: dict[InputSite, Tensor]) -> Tensor:
        """As `TSANetwork.embed`, of values at places: (n, ensemble width), or (n, M, …)."""
        network, combine = self.network, self.network.combine
        orders = self._orders

        def encode(k: int, _: History) -> Tensor:
            return self._order(orders[k], at, "events", k)

        gate = combine if isinstance(combine, GatedFusion) else None
        parts = [combine(self.histories, encode) if gate is None else self._gated(gate, at, encode)]
        if network.feature is not None:
            tokens = network.feature.norm(at[InputSite("tokens")])
            parts.append(network.feature.layers.last(tokens, AttentionContext()))
        if network.mlp is not None:
            parts.append(network.mlp(at[InputSite("numbers")], None))
        return concat_members(parts)

    def _order(self, order: OrderAttention, at: dict[InputSite, Tensor], kind: str, k: int) -> Tensor:
        """(n, E), or (n, M, E) for members, the output of an order attention for history k."""
        x, context = self._tokens(order, at, kind, k)
        out: Tensor = order.last_norm(order.layers.last(x, context))
        return out

    def _tokens(
        self, order: OrderAttention, at: dict[InputSite, Tensor], kind: str, k: int
    ) -> tuple[Tensor, AttentionContext]:
        """As the start of `OrderAttention`, from parts and presences; the current event and a learned token are always present."""
        x = embedded(order.events, at[InputSite(kind, k)], self.network.config.n_categorical)
        presence = functional.pad(POWER * at[InputSite("presence", k)].clamp_min(ABSENT).log(), (0, 1))
        age = self.histories[k].age_seconds.expand(len(x), -1)
        x = order.aged(x, age)
        if order.token is not None:
            x = torch.cat([x, order.token.to(x.dtype).expand(len(x), 1, -1)], dim=1)
            presence, age = functional.pad(presence, (0, 1)), functional.pad(age, (0, 1))
        context = order.make_context(torch.zeros_like(age, dtype=torch.bool), age)
        context.key_log_weight = presence
        return order.norm(x), context

    def _gated(
        self, combine: GatedFusion, at: dict[InputSite, Tensor], encode: Callable[[int, History], Tensor]
    ) -> Tensor:
        """As `GatedFusion`. The actual payment decides which histories are left out along all of the path."""
        importance = self._gate(combine, at)
        runs = [k for k, runs in enumerate(self._runs) if runs]
        out: Tensor = combine.norm(sum(importance[:, k, None] * encode(k, self.histories[k]) for k in runs))
        return out

    def _gate(self, combine: GatedFusion, at: dict[InputSite, Tensor]) -> Tensor:
        """The importances (n, histories); those after the first history scale with the presence of its first earlier event."""
        n = range(len(self.histories))
        small = [self._order(combine.order, at, "gate", k) for k in n]
        importance = torch.softmax(combine.head(torch.cat(small, dim=-1)), dim=-1)
        there = [1 - (1 - at[InputSite("presence", k)] ** POWER).prod(-1) for k in n]
        return importance * torch.stack([torch.ones_like(there[0]), *there[1:]], dim=-1)

    def _which_run(self) -> list[bool]:
        combine = self.network.combine
        if not isinstance(combine, GatedFusion):
            return [True] * len(self.histories)
        importance = self._gate(combine, dict(zip(self.places, self.actual, strict=True)))[0]
        return [k == 0 or bool(value > combine.min_importance) for k, value in enumerate(importance)]


def log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 − p)) of the probability p of fraud, class 1: logits (n, classes) → (n,)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits[:, 1] - torch.cat([logits[:, :1], logits[:, 2:]], dim=-1).logsumexp(-1)


def _last_weights(order: OrderAttention, x: Tensor, context: AttentionContext) -> Tensor:
    """(n, heads, L) the weights of the position that is read out, in the last layer."""
    if isinstance(order.layers, CrossAttention):
        return order.layers.last_weights(x, context)
    *firsts, last = (layer for layer in order.layers if isinstance(layer, AttentionLayer))
    for layer in firsts:
        x = layer(x, context)
    return last.last_weights(x, context)
