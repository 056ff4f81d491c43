"""`Explainer`: explains scores of a bundle, from a batch of one payment and raw values, or from rows of a store."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.config.reason_texts import Reasons
from tsa.data.encoding.scaler import ImportedScaler, Scaler
from tsa.data.history import FRAUD, GENUINE
from tsa.data.key_roles import compared_keys
from tsa.data.store.store import EventStore
from tsa.data.wire import Requests
from tsa.errors import DataError
from tsa.explain.attributions_by_feature import EventAttributions
from tsa.explain.baseline import Baseline
from tsa.explain.explanation import AggregateShare, EventShare, Explanation, FeatureShare, HistoryShare
from tsa.explain.part_attributions import NetworkPart, TreePart, absent_network, network_part, tree_part
from tsa.explain.path import InterpolationPath
from tsa.explain.raw_values import Payment, calendar_values, decoded, decoded_numbers, store_facts
from tsa.explain.reason_kinds import HistoryContext
from tsa.explain.reasons import Kinds, reasons_of
from tsa.model import Batch, History
from tsa.model.collate import gather_batch, request_batch
from tsa.model.network_and_trees import raw_scores
from tsa.model.tree_model import TreeModel
from tsa.times import iso

OUTCOMES = {FRAUD: "fraud", GENUINE: "genuine"}


class Explainer:
    """Explains scores of a bundle. Create it once and reuse it; it is thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        self.market, self.encoder, self.calibration = bundle.market, bundle.encoder, bundle.calibration
        self.network, self.trees, self.joining = bundle.network, bundle.trees, bundle.joining
        if any(value.dtype != torch.float32 for value in self.network.parameters()):
            self.network = copy.deepcopy(
                self.network
            ).float()  # rounding leaves out effects that could not be explained
        self._neutral = Baseline.of(self.encoder)
        self._keys = compared_keys(self.market) if self.network.config.n_match_keys else ()
        self._fixed: Mapping[str, Sequence[str]] = bundle.training.get("fixed_values", {})

    def explain(
        self,
        batch: Batch,
        payment: Payment | None = None,
        earlier: Mapping[str, Sequence[Payment]] | None = None,
        columns: NDArray[Any] | None = None,
    ) -> Explanation:
        """Explain the score of a batch of one payment, gathered as for scoring.

        Raw values that are not given are decoded from the batch.

        Args:
            payment: Its id, time and raw values.
            earlier: Per history the raw values of the earlier payments in the batch, oldest first.
            columns: (1, K) what the bundle's trees read of the payment, if they count in its scores.

        Raises:
            DataError: If the batch does not contain exactly one payment, or there are no columns where trees count.
            ConfigError: If captum is not installed.
        """
        if len(batch) != 1:
            raise DataError(f"one payment at a time can be explained (got a batch of {len(batch)})")
        passage = InterpolationPath(self.network, batch.trimmed(), self._neutral)
        trees = self._trees(columns)
        network = self._network(passage, 0.0 if trees is None else trees.score - trees.baseline)
        current = self._current(batch, payment or Payment())
        pasts = [
            self._past(k, history, current, (earlier or {}).get(self.market.views[k].name, ()))
            for k, history in enumerate(passage.histories)
        ]
        parts = {"network": network.score, **({} if trees is None else {"trees": trees.score})}
        baseline = network.baseline + (0.0 if trees is None else trees.baseline) + self.joining.intercept
        score = sum(parts.values()) + self.joining.intercept
        kinds = self._kinds(passage.histories[0], batch)
        return Explanation(
            id=current.id,
            time=_when(current.time_seconds),
            scores=self._scores(score),
            score=score,
            baseline=baseline,
            total=score - baseline,
            residual=network.residual,
            steps=network.steps,
            parts={name: parts[name] for name in self.joining.parts},
            reasons=reasons_of(network.shares, current, pasts, kinds, self.market.reasons or Reasons(), trees),
            features=_features(network, trees, current),
            histories=_histories(network, trees, pasts, self._keys),
        )

    def explain_rows(self, store: EventStore, rows: Sequence[int]) -> Iterator[Explanation]:
        """Explain the payments `rows` of a store made with this bundle's encoder, one at a time."""
        for row, facts in zip(rows, store_facts(store, rows), strict=True):
            one = np.array([row])
            columns = None if self._read is None else self._read.columns.of_store(store, one)
            yield self.explain(gather_batch(store, one, trim=True), facts.payment, facts.earlier, columns)

    def explain_request(
        self, requests: Requests, payment: Payment | None = None, earlier: Mapping[str, Sequence[Payment]] | None = None
    ) -> Explanation:
        """Explain the score of requests of one payment; the other arguments are those of `explain`."""
        columns = None
        if self._read is not None:
            columns = self._read.columns.of_payments(requests.seen, requests.engineered)
        return self.explain(request_batch(requests), payment, earlier, columns)

    @property
    def _read(self) -> TreeModel | None:
        """The trees, if they count."""
        return self.trees if "trees" in self.joining.parts else None

    def _network(self, passage: InterpolationPath, others: float) -> NetworkPart:
        if "network" in self.joining.parts:
            return network_part(self.encoder, passage, self.joining.network, others)
        return absent_network(self.encoder, passage.histories)

    def _trees(self, columns: NDArray[Any] | None) -> TreePart | None:
        if self._read is None:
            return None
        if columns is None:
            raise DataError("columns must be given where trees count in the score (got none)")
        return tree_part(self._read, columns, self.joining.trees, (self.market.reasons or Reasons()).names)

    def _scores(self, score: float) -> dict[str, float]:
        raw = raw_scores(np.array([score]))
        further = {} if self.calibration is None else self.calibration.columns(raw)
        return {"raw_score": float(raw[0]), **{name: float(values[0]) for name, values in further.items()}}

    def _current(self, batch: Batch, payment: Payment) -> Payment:
        history = next(iter(batch.histories.values()))
        values = self._read_back(history, -1)
        if batch.engineered is not None:
            values |= decoded_numbers(self.encoder.engineered_scaling, batch.engineered[0].cpu().numpy())
        return self._completed(payment, values)

    def _middle(self, batch: Batch) -> frozenset[str]:
        """Numbers of the payment alone that are nothing unusual."""
        if batch.engineered is None:
            return frozenset()
        pairs = zip(self.encoder.engineered_scaling.scalers, batch.engineered[0].tolist(), strict=False)
        return frozenset(scaler.name for scaler, value in pairs if _is_middle(scaler, value))

    def _past(self, k: int, history: History, current: Payment, earlier: Sequence[Payment]) -> HistoryContext:
        """The earlier payments of a history without padding, with the known values of each."""
        n = history.padding.shape[1] - 1
        given = [Payment()] * (n - len(earlier)) + list(earlier)[max(0, len(earlier) - n) :]
        ages = history.age_seconds[0, :n].tolist()
        payments = []
        for at, (payment, age) in enumerate(zip(given, ages, strict=True)):
            if payment.time_seconds is None and current.time_seconds is not None:
                payment = Payment(payment.id, current.time_seconds - age, payment.values)
            values = self._read_back(history, at)
            roles = {v.name: values[v.name] for v in self.encoder.role_vocabularies}
            payments.append(self._completed(payment, {**roles, **(payment.values or values)}))
        outcomes = [0] * n if history.outcome is None else history.outcome[0, :n].tolist()
        key = self.market.views[k]
        same = {} if history.same_key is None else _counts(self._keys, history.same_key[0].cpu().numpy())
        return HistoryContext(key.name, payments, ages, outcomes, full=n + 1 >= key.length, same_key=same)

    def _read_back(self, history: History, at: int) -> dict[str, Any]:
        return decoded(self.encoder, history.categorical[0, at].cpu().numpy(), history.numerical[0, at].cpu().numpy())

    def _completed(self, payment: Payment, values: Mapping[str, Any]) -> Payment:
        times = calendar_values(self.encoder, payment.time_seconds)
        return Payment(payment.id, payment.time_seconds, {**values, **payment.values, **times})

    def _kinds(self, history: History, batch: Batch) -> Kinds:
        rows = history.categorical[0, -1].tolist()
        unknown = [v.name for v, row in zip(self.encoder.vocabularies, rows, strict=True) if row == v.unknown_row]
        return Kinds(
            texts=frozenset(v.name for v in (*self.encoder.categorical_vocabularies, *self.encoder.role_vocabularies)),
            calendar=frozenset(v.name for v in self.encoder.calendar_vocabularies),
            unknown=frozenset(unknown),
            alone=frozenset(scaler.name for scaler in self.encoder.engineered_scaling.scalers),
            keys=self._keys,
            middle=self._middle(batch),
            fixed=self._fixed,
        )


def _counts(keys: Sequence[str], same: NDArray[np.bool_]) -> dict[str, int]:
    """By key that the payment has: earlier events with the same one. same (L, K), the payment last."""
    return {name: int(column[:-1].sum()) for name, column in zip(keys, same.T, strict=False) if column[-1]}


def _is_middle(scaler: Scaler | ImportedScaler, value: float) -> bool:
    """Whether a scaled number is near the middle: within a deviation of the mean, or the middle 80 % of all."""
    if isinstance(scaler, ImportedScaler) or scaler.scale == "minmax":
        return False
    return 0.1 < value < 0.9 if scaler.scale == "quantile" else abs(value) < 1


def _features(network: NetworkPart, trees: TreePart | None, current: Payment) -> tuple[FeatureShare, ...]:
    """The features of the payment, strongest first."""
    values: dict[str, Any] = dict(current.values)
    total = dict(zip(network.shares.names, network.shares.current.tolist(), strict=True))
    for name, attribution in ({} if trees is None else trees.features).items():
        total[name] = total.get(name, 0.0) + attribution
        if trees is not None and name not in values:
            values[name] = trees.values.get(name)
    shares = [FeatureShare(name=name, value=values.get(name), attribution=value) for name, value in total.items()]
    return tuple(sorted(shares, key=lambda share: -abs(share.attribution)))


def _histories(
    network: NetworkPart, trees: TreePart | None, pasts: Sequence[HistoryContext], keys: Sequence[str]
) -> tuple[HistoryShare, ...]:
    aggregates = [] if trees is None else trees.aggregates
    weights = network.importances
    return tuple(
        _history(
            past,
            network.shares.names,
            keys,
            attributions,
            attention,
            None if weights is None else weights[k],
            tuple(share for share in aggregates if share.history == past.name),
        )
        for k, (past, attributions, attention) in enumerate(
            zip(pasts, network.shares.histories, network.attention, strict=True)
        )
    )


def _history(
    past: HistoryContext,
    names: Sequence[str],
    keys: Sequence[str],
    shares: EventAttributions,
    attention: Sequence[float],
    importance: float | None,
    aggregates: tuple[AggregateShare, ...],
) -> HistoryShare:
    totals, attributed = shares.events, shares.features.any(0)
    events = tuple(
        EventShare(
            id=payment.id,
            time=_when(payment.time_seconds),
            age_seconds=past.ages[at],
            outcome=OUTCOMES.get(past.outcomes[at], "not known"),
            values=payment.values,
            attribution=float(totals[at]),
            presence=float(shares.presence[at]),
            outcome_attribution=float(shares.outcome[at]),
            features={names[f]: float(shares.features[at, f]) for f in np.flatnonzero(attributed).tolist()},
            keys={name: float(value) for name, value in zip(keys, shares.keys[at], strict=False) if value},
            attention=attention[at],
        )
        for at, payment in enumerate(past.payments)
    )
    attribution = float(totals.sum()) + sum(share.attribution for share in aggregates)
    return HistoryShare(
        name=past.name, importance=importance, attribution=attribution, events=events, aggregates=aggregates
    )


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else iso(seconds)
