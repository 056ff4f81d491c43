"""What is scored payment by payment, with a history store, is what is scored offline with the whole log."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.history_case import Case, answer_of, assert_same, frame, in_time, random_rows, replay, request
from tsa.serving.history.factory import open_history
from tsa.serving.scoring.scoring_service import ScoringService

pytestmark = pytest.mark.slow

LONG = bool(os.environ.get("TSA_LONG"))
N = 20_000 if LONG else 500  # 12 payments of each card, 33 of each shop: more than their histories hold


@pytest.fixture(params=["network", "combined"])
def case(request: pytest.FixtureRequest, case: Case, combined_case: Case) -> Case:
    """A network alone, and network and trees."""
    return case if request.param == "network" else combined_case


def test_one_payment_at_a_time(case: Case, history_url: str) -> None:
    rows = random_rows(N, seed=1, cards=max(40, N // 100), shops=max(15, N // 400))
    with open_history(history_url) as store:
        found = replay(ScoringService(case.scorer(), store), rows)
    assert len(found) == N
    assert_same(found, case.offline(rows))


def test_histories_and_outcomes_matter(case: Case) -> None:
    """The network does look at them: without, scores are others. Else the test above could not fail."""
    rows = case.rows
    expected = case.offline(rows)
    alone = case.offline([{**row, "card": None, "shop": None} for row in rows])
    unknown = case.offline([{**row, "fraud": None, "reported": None} for row in rows])
    for other in (alone, unknown):
        differences = np.abs([other[id_] - expected[id_] for id_ in expected])
        assert (differences > 1e-4).mean() > 0.3


def test_batches(case: Case, history_url: str) -> None:
    """Payments that come together see one another as in a log, whatever their order in the request."""
    rows = random_rows(600 if LONG else 240, seed=2, cards=20, shops=8)
    rng, scores, at = np.random.default_rng(0), {}, 0
    told = {row["id"]: [earlier["id"] for earlier in known] for row, known in in_time(rows)}
    by_id = {row["id"]: row for row in rows}
    with open_history(history_url) as store:
        scoring_service = ScoringService(case.scorer(), store)
        while at < len(rows):
            size = int(rng.integers(1, 40))
            # a batch ends before an outcome of one of its own payments becomes known
            batch = rows[at : at + size]
            ids = [row["id"] for row in batch]
            cut = next((n for n, id_ in enumerate(ids) if set(told[id_]) & set(ids[:n])), len(batch))
            batch = batch[:cut]
            for row in batch:
                for id_ in told[row["id"]]:
                    assert scoring_service.record_outcome(id_, bool(by_id[id_]["fraud"]), by_id[id_]["reported"])
            mixed = [batch[place] for place in rng.permutation(len(batch))]
            answers = scoring_service.score([request(row) for row in mixed])
            assert [answer_of(answer).id for answer in answers] == [row["id"] for row in mixed]
            scores |= {answer.id: answer.raw_score for answer in map(answer_of, answers)}
            at += cut
    assert_same(scores, case.offline(rows))


@settings(max_examples=10 if LONG else 2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), late=st.integers(1, 5000), size=st.integers(1, 4))
def test_any_order_of_arrival(
    case: Case, tmp_path_factory: pytest.TempPathFactory, seed: int, late: int, size: int
) -> None:
    """A late payment lands in time order: it sees those before it that had come, and later ones see it."""
    rows = [{**row, "fraud": None, "reported": None} for row in random_rows(30, seed, cards=2, shops=2, gap=900)]
    rng = np.random.default_rng(seed)
    arrival = np.argsort([row["time"] + rng.uniform(0, late) for row in rows], kind="stable")
    url = f"sqlite:///{tmp_path_factory.mktemp('order') / 'x.db'}"
    found, come = {}, []
    with open_history(url) as store:
        scoring_service = ScoringService(case.scorer(serving={"max_late_days": late / 86_400}), store)
        for at in range(0, len(rows), size):
            batch = [rows[place] for place in arrival[at : at + size]]
            come += batch
            answers = scoring_service.score([request(row) for row in batch])
            expected = case.offline(sorted(come, key=lambda row: (row["time"], row["id"])))
            assert_same({answer_of(one).id: answer_of(one).raw_score for one in answers}, expected)
            found |= {answer_of(one).id: answer_of(one) for one in answers}
    assert len(found) == len(rows)


def test_a_log_loaded_and_gone_on_with(case: Case, history_url: str) -> None:
    from tsa.serving.history.backfill import backfill

    rows = case.rows if LONG else case.rows[:1150]
    expected = case.offline(rows)
    known = rows[:1000]
    with open_history(history_url) as store:
        first = backfill(store, case.bundle, [_written(case, known)])
        assert first.read == 1000
        assert backfill(store, case.bundle, [_written(case, known)]).changed == 0
        scoring_service = ScoringService(case.scorer(), store)
        scores = {}
        for row, told in in_time(rows):
            for earlier in told if row["id"] >= rows[1000]["id"] else ():
                scoring_service.record_outcome(earlier["id"], bool(earlier["fraud"]), earlier["reported"])
            if row["id"] >= rows[1000]["id"]:
                scores[row["id"]] = answer_of(scoring_service.score([request(row)])[0]).raw_score
    assert len(scores) == len(rows) - 1000
    assert_same(scores, expected)


def _written(case: Case, rows: list[dict[str, object]]) -> str:
    path = case.folder / f"part-{len(rows)}.parquet"
    frame(rows).write_parquet(path)
    return str(path)
