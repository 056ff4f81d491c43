"""Explanations of scores by network and trees: they add up, and are the same from a log and from single payments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.history_case import Case, frame
from tsa.bundle.bundle import Bundle
from tsa.data.online.histories import HistoryEvents
from tsa.data.store.store import EventStore
from tsa.errors import DataError
from tsa.explain import Explainer, Explanation, Payment, explain_log
from tsa.inference.scorer import Scorer
from tsa.model.collate import gather_batch
from tsa.model.network_and_trees import ALONE, Joining

FORMS = {
    "combined": Joining(network=0.5, trees=0.7, intercept=-0.3),
    "trees": ALONE["trees"],
    "network": ALONE["network"],
}
IDS = ["p000020", "p000400", "p001200", "p001499"]


@pytest.fixture(params=FORMS)
def bundle(request: pytest.FixtureRequest, combined_case: Case) -> Bundle:
    return replace(combined_case.bundle, joining=FORMS[request.param])


@pytest.fixture
def explained(bundle: Bundle, combined_case: Case) -> list[Explanation]:
    return explain_log(bundle, combined_case.log, IDS)


def test_everything_adds_up_to_the_score(bundle: Bundle, combined_case: Case, explained: list[Explanation]) -> None:
    raw = dict(Scorer(bundle).score(frame(combined_case.rows)).select("id", "raw_score").iter_rows())
    for one in explained:
        assert one.scores["raw_score"] == pytest.approx(raw[one.id], abs=1e-6)
        assert one.score == pytest.approx(sum(one.parts.values()) + bundle.joining.intercept, abs=1e-9)
        assert set(one.parts) == set(bundle.joining.parts)
        assert one.adds_up
        parts = sum(f.attribution for f in one.features) + sum(h.attribution for h in one.histories)
        assert parts == pytest.approx(one.total - one.residual, abs=1e-6)
        for history in one.histories:
            own = sum(event.attribution for event in history.events)
            own += sum(aggregate.attribution for aggregate in history.aggregates)
            assert own == pytest.approx(history.attribution, abs=1e-9)
            shown = history.to_dict()
            assert shown["other_aggregates"] + sum(a["attribution"] for a in shown["aggregates"]) == pytest.approx(
                sum(aggregate.attribution for aggregate in history.aggregates)
            )


def test_reasons_add_up_and_speak_of_aggregates(combined_case: Case) -> None:
    bundle = replace(combined_case.bundle, market=combined_case.bundle.market.override(["reasons.most=1000"]))
    texts = []
    for one in explain_log(bundle, combined_case.log, IDS):
        everything = sum(abs(reason.attribution) for reason in one.reasons)
        total = sum(reason.attribution for reason in one.reasons)
        assert total == pytest.approx(one.total - one.residual, abs=0.15 * everything), "but for what is below 1 %"
        strength = [abs(reason.attribution) for reason in one.reasons]
        assert strength == sorted(strength, reverse=True)
        assert len({(r.kind, r.feature, r.history, r.text) for r in one.reasons}) == len(one.reasons)
        texts += [reason.text for reason in one.reasons if reason.kind == "aggregate"]
    assert any("this card" in text or "this shop" in text for text in texts)
    assert not any("{" in text or "nan" in text for text in texts)


USUAL = {"near_usual", "in_usual_range", "known_value", "usual_time", "no_known_fraud"}
UNUSUAL = {
    *("higher_than_usual", "other_than_usual", "new_value", "rare_value", "recent_value", "unknown_value"),
    *("unusual_time", "known_fraud", "known_frauds", "many_payments", "more_payments", "after_pause"),
}


def test_what_is_said_fits_its_direction(bundle: Bundle, combined_case: Case) -> None:
    """Nothing usual is said for fraud, nothing unusual against it; the rest is one reason in each direction at most."""
    kinds = set()
    for one in explain_log(bundle, combined_case.log, [f"p{at:06d}" for at in range(300, 1500, 80)]):
        for reason in one.reasons:
            kinds.add(reason.kind)
            assert reason.kind not in (USUAL if reason.attribution > 0 else UNUSUAL), reason
        combined = [reason.attribution > 0 for reason in one.reasons if reason.kind == "combination"]
        assert len(combined) == len(set(combined))
        texts = [reason.text for reason in one.reasons]
        assert not ({"card not seen before for this shop", "shop not seen before for this card"} <= set(texts))
    assert kinds & USUAL
    assert kinds & UNUSUAL
    assert "combination" in kinds


def test_a_single_payment_is_explained_as_in_the_log(
    combined_case: Case, explained: list[Explanation], bundle: Bundle
) -> None:
    scorer, rows = Scorer(bundle), combined_case.rows
    at = 400
    now, past = rows[at], {}
    for name in ("card", "shop"):
        before = [row for row in rows[:at] if now[name] is not None and row[name] == now[name]]
        if before:
            past[name, now[name]] = HistoryEvents.of(scorer.reader.read_all(before, outcomes=True))
    requests = scorer.requests(scorer.reader.read_all([now]), past)
    found = Explainer(bundle).explain_request(requests, Payment(now["id"], now["time"]))
    assert found.id == now["id"]
    assert found.score == pytest.approx(explained[1].score, abs=1e-6)
    assert [a.text for h in found.histories for a in h.aggregates] == [
        a.text for h in explained[1].histories for a in h.aggregates
    ]


def test_columns_must_be_given(combined_case: Case) -> None:
    with combined_case.scorer().encoded(combined_case.log) as store:
        assert isinstance(store, EventStore)
        with pytest.raises(DataError, match="columns must be given where trees count"):
            Explainer(combined_case.bundle).explain(gather_batch(store, np.array([3])))
