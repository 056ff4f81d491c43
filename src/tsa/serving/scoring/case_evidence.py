"""What an analyst sees of a case: reasons in words, its histories, and similar payments of the same keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tsa.errors import ConfigError, HistoryUnavailable, TSAError
from tsa.explain.explainer import Explainer
from tsa.explain.integrated_gradients import need_captum
from tsa.inference.scorer import Scorer
from tsa.serving.decisions.as_payment_log import clean_market
from tsa.serving.history.base import HistoryStore
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.records import Record
from tsa.serving.history.reencode import read_records
from tsa.serving.scoring.pipeline import ScoringPipeline
from tsa.serving.scoring.preview import stored_input

MAX_SIMILAR = 8
WAIT_SECONDS = 5.0
"""How long a case waits for the reasons of another one, before it is shown without."""
OUTCOMES = {-1: "not known", 0: "genuine", 1: "fraud"}


class EvidenceReader:
    """Explains cases with the served bundle and the histories that they had at their time. Safe in several threads."""

    def __init__(self, store: HistoryStore | None) -> None:
        self._store, self._lock = store, threading.Lock()

    def set_bundle(self, scorer: Scorer, version: str) -> None:
        """Explain with this bundle from now on."""
        # what a case has is clean and pseudonymised already
        bundle = replace(scorer.bundle, market=clean_market(scorer.bundle.market))
        pipeline = ScoringPipeline(Scorer(bundle), version, time.time)
        try:
            need_captum()
            explainer = Explainer(bundle)
        except ConfigError:
            explainer = None
        self._with = pipeline, explainer

    def of(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """The evidence of a case.

        Returns:
            `reasons`, or None if there is no time or library for them; `explained_by`, the version of the bundle that they
            are of; `histories` with their events, oldest first; `similar` payments, the most similar first.
            `unavailable` instead if histories cannot be read.
        """
        nothing: dict[str, Any] = {
            "reasons": None,
            "explained_by": None,
            "histories": [],
            "similar": [],
            "unavailable": False,
        }
        if self._store is None:
            return nothing
        try:
            neighbours = self._neighbours(case)
            explained = self._explained(case)
        except HistoryUnavailable:
            return {**nothing, "unavailable": True}
        histories = _plain_histories(case, neighbours) if explained is None else explained["histories"]
        return {
            **nothing,
            "reasons": None if explained is None else explained["reasons"],
            "explained_by": None if explained is None else self._with[0].version,
            "histories": histories,
            "similar": _similar(case, neighbours, self._with[0].market.features.categorical, self._amount),
        }

    @property
    def _amount(self) -> str | None:
        return self._with[0].market.event.amount

    def _explained(self, case: Mapping[str, Any]) -> dict[str, Any] | None:
        pipeline, explainer = self._with
        if explainer is None or not self._lock.acquire(timeout=WAIT_SECONDS):
            return None
        try:
            market = pipeline.market
            moment = datetime.fromtimestamp(case["time"], UTC).isoformat()
            parsed = pipeline.parse_rows([{**case["values"], market.event.id: case["id"], market.event.time: moment}])
            if parsed.problems:
                return None  # the served bundle reads what this payment does not have
            # the recorded time has more digits than its text
            payments = replace(parsed.payments, time_seconds=np.array([case["time"]]))
            seen = stored_input(pipeline, self._store, payments)
            return explainer.explain_request(seen.requests, seen.payment, seen.earlier).to_dict()
        except HistoryUnavailable:
            raise
        except TSAError:
            return None
        finally:
            self._lock.release()

    def _neighbours(self, case: Mapping[str, Any]) -> dict[str, tuple[Record, int, list[str]]]:
        """The stored payments of the case's keys by id: record, outcome, and the histories that they share."""
        assert self._store is not None
        places = [(history, key) for history, key in case["keys"]]
        shared: dict[str, tuple[int, list[str]]] = {}
        for (history, _), stored in self._store.read(places).items():
            events = HistoryBlock.unpack(stored.data).events
            for id_, label in zip(events.ids, events.label.tolist(), strict=True):
                if id_ != case["id"]:
                    shared.setdefault(id_, (label, []))[1].append(history)
        records = read_records(self._store, list(shared))
        return {id_: (records[id_], label, names) for id_, (label, names) in shared.items() if id_ in records}


Neighbours = Mapping[str, tuple[Record, int, Sequence[str]]]


def _similar(
    case: Mapping[str, Any], neighbours: Neighbours, features: Any, amount: str | None
) -> list[dict[str, Any]]:
    names = [feature.name for feature in features]
    own = case["values"]
    ranked = []
    for id_, (record, label, histories) in neighbours.items():
        same = [name for name in names if own.get(name) is not None and own.get(name) == record.raw.get(name)]
        likeness = len(same) / max(1, len(names)) + len(histories) + _closeness(own, record.raw, amount)
        answer = record.answer or {}
        ranked.append(
            (
                -likeness,
                -record.time_seconds,
                {
                    "id": id_,
                    "time": record.time_seconds,
                    "amount": None if amount is None else record.raw.get(amount),
                    "outcome": OUTCOMES[label],
                    "decision": answer.get("decision"),
                    "raw_score": answer.get("raw_score"),
                    "shares": list(histories),
                    "same": same,
                },
            )
        )
    ranked.sort(key=lambda one: one[:2])
    return [document for *_, document in ranked[:MAX_SIMILAR]]


def _closeness(own: Mapping[str, Any], other: Mapping[str, Any], amount: str | None) -> float:
    """1 for the same amount, down to 0; 0 without amounts."""
    if amount is None:
        return 0.0
    numbers = [value for values in (own, other) if isinstance(value := values.get(amount), int | float) and value > 0]
    return min(numbers) / max(numbers) if len(numbers) == 2 else 0.0


def _plain_histories(case: Mapping[str, Any], neighbours: Neighbours) -> list[dict[str, Any]]:
    """The histories in the form of an explanation, without attributions."""
    histories = []
    for name in dict.fromkeys(history for history, _ in case["keys"]):
        earlier = [
            (record, id_, label)
            for id_, (record, label, shares) in neighbours.items()
            if name in shares and record.time_seconds <= case["time"]
        ]
        events = [
            {
                "id": id_,
                "age_seconds": case["time"] - record.time_seconds,
                "outcome": OUTCOMES[label],
                "values": record.raw,
                "attribution": 0.0,
                "attention": 0.0,
            }
            for record, id_, label in sorted(earlier, key=lambda one: one[0].time_seconds)
        ]
        histories.append({"name": name, "importance": None, "attribution": 0.0, "events": events})
    return histories
