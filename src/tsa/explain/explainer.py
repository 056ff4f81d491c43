"""`Explainer`: explains scores of a bundle, from a batch of one payment and raw values, or from rows of a store."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from tsa.bundle.bundle import Bundle
from tsa.config.optional_tables import Reasons
from tsa.data.history import FRAUD, GENUINE
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.explain.aggregate import EventAttributions, shares_of
from tsa.explain.baseline import Baseline
from tsa.explain.explanation import EventShare, Explanation, FeatureShare, HistoryShare
from tsa.explain.integrated_gradients import Attribution, attribute
from tsa.explain.path import InterpolationPath
from tsa.explain.raw_values import Payment, calendar_values, decoded, decoded_numbers, store_facts
from tsa.explain.reasons import Kinds, reasons_of
from tsa.explain.templates import HistoryContext
from tsa.model import Batch, History
from tsa.model.collate import gather_batch

OUTCOMES = {FRAUD: "fraud", GENUINE: "genuine"}


class Explainer:
    """Explains scores of a bundle. Create it once and reuse it; it is thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises ConfigError for a bundle whose trees count."""
        refuse_trees(bundle)
        self.market, self.encoder, self.calibration = bundle.market, bundle.encoder, bundle.calibration
        self.network = bundle.network
        if any(value.dtype != torch.float32 for value in self.network.parameters()):
            self.network = copy.deepcopy(
                self.network
            ).float()  # rounding leaves out effects that could not be explained
        self._neutral = Baseline.of(self.encoder)

    def explain(
        self,
        batch: Batch,
        payment: Payment | None = None,
        earlier: Mapping[str, Sequence[Payment]] | None = None,
    ) -> Explanation:
        """Explain the score of a batch of one payment, gathered as for scoring.

        Raw values that are not given are decoded from the batch.

        Args:
            payment: Its id, time and raw values.
            earlier: Per history the raw values of the earlier payments in the batch, oldest first.

        Raises:
            DataError: If the batch does not contain exactly one payment.
            ConfigError: If captum is not installed.
        """
        if len(batch) != 1:
            raise DataError(f"one payment at a time can be explained (got a batch of {len(batch)})")
        passage = InterpolationPath(self.network, batch.trimmed(), self._neutral)
        attributed = attribute(passage)
        shares = shares_of(self.encoder, passage, attributed)
        current = self._current(batch, payment or Payment())
        pasts = [
            self._past(k, history, current, (earlier or {}).get(self.market.views[k].name, ()))
            for k, history in enumerate(passage.histories)
        ]
        importances = passage.importances()
        weights = None if importances is None else importances.tolist()
        attention = [values.tolist() for values in passage.attention()]
        histories = tuple(
            _history(past, shares.names, attributions, event_attention, None if weights is None else weights[k])
            for k, (past, attributions, event_attention) in enumerate(
                zip(pasts, shares.histories, attention, strict=True)
            )
        )
        features = [
            FeatureShare(name=name, value=current.values.get(name), attribution=float(value))
            for name, value in zip(shares.names, shares.current, strict=True)
        ]
        wording = self.market.reasons or Reasons()
        return Explanation(
            id=current.id,
            time=_when(current.time_seconds),
            scores=self._scores(attributed),
            score=attributed.score,
            baseline=attributed.baseline,
            total=attributed.total,
            residual=attributed.residual,
            steps=attributed.steps,
            reasons=reasons_of(shares, current, pasts, self._kinds(passage.histories[0]), wording),
            features=tuple(sorted(features, key=lambda feature: -abs(feature.attribution))),
            histories=histories,
        )

    def explain_rows(self, store: EventStore, rows: Sequence[int]) -> Iterator[Explanation]:
        """Explain the payments `rows` of a store made with this bundle's encoder, one at a time."""
        for row, facts in zip(rows, store_facts(store, rows), strict=True):
            yield self.explain(gather_batch(store, np.array([row]), trim=True), facts.payment, facts.earlier)

    def _scores(self, attribution: Attribution) -> dict[str, float]:
        raw = np.array([1 / (1 + np.exp(-attribution.score))], np.float32)
        further = {} if self.calibration is None else self.calibration.columns(raw)
        return {"raw_score": float(raw[0]), **{name: float(values[0]) for name, values in further.items()}}

    def _current(self, batch: Batch, payment: Payment) -> Payment:
        history = next(iter(batch.histories.values()))
        values = self._read_back(history, -1)
        if batch.engineered is not None:
            values |= decoded_numbers(self.encoder.engineered_scaling, batch.engineered[0].cpu().numpy())
        return self._completed(payment, values)

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
        return HistoryContext(key.name, payments, ages, outcomes, full=n + 1 >= key.length)

    def _read_back(self, history: History, at: int) -> dict[str, Any]:
        return decoded(self.encoder, history.categorical[0, at].cpu().numpy(), history.numerical[0, at].cpu().numpy())

    def _completed(self, payment: Payment, values: Mapping[str, Any]) -> Payment:
        times = calendar_values(self.encoder, payment.time_seconds)
        return Payment(payment.id, payment.time_seconds, {**values, **payment.values, **times})

    def _kinds(self, history: History) -> Kinds:
        rows = history.categorical[0, -1].tolist()
        unknown = [v.name for v, row in zip(self.encoder.vocabularies, rows, strict=True) if row == v.unknown_row]
        return Kinds(
            texts=frozenset(v.name for v in (*self.encoder.categorical_vocabularies, *self.encoder.role_vocabularies)),
            calendar=frozenset(v.name for v in self.encoder.calendar_vocabularies),
            unknown=frozenset(unknown),
            alone=frozenset(scaler.name for scaler in self.encoder.engineered_scaling.scalers),
        )


def refuse_trees(bundle: Bundle) -> None:
    """Raise ConfigError for a bundle whose trees count: reasons of the network alone would be wrong."""
    if "trees" in bundle.joining.parts:
        raise ConfigError(
            "explaining needs a bundle that scores by its network alone (got one that scores by trees too)"
        )


def _history(
    past: HistoryContext,
    names: Sequence[str],
    shares: EventAttributions,
    attention: Sequence[float],
    importance: float | None,
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
            attention=attention[at],
        )
        for at, payment in enumerate(past.payments)
    )
    return HistoryShare(name=past.name, importance=importance, attribution=float(totals.sum()), events=events)


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
