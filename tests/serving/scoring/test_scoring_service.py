"""What the scoring service answers, refuses and remembers."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.history_case import DAY, START, Case, RedisServer, answer_of, assert_same, frame, random_rows, request
from tsa.bundle.decisions import Decision, DecisionPolicy
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.errors import ConfigError, DataError, HistoryError
from tsa.inference.scorer import Scorer
from tsa.serving.history.backfill import backfill
from tsa.serving.history.base import PAYMENTS, HistoryStore
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.factory import open_history
from tsa.serving.history.maintenance import erase, expire
from tsa.serving.history.records import Record
from tsa.serving.scoring.scoring_service import RuleViolation, ScoringService


@pytest.fixture
def store(history_url: str):  # type: ignore[no-untyped-def]
    with open_history(history_url) as opened:
        yield opened


@pytest.fixture
def scoring_service(case: Case, store: HistoryStore) -> ScoringService:
    return ScoringService(case.scorer(), store, version="0123456789ab")


def payment(at: float, id_: str, **changes: Any) -> dict[str, Any]:
    return {"id": id_, "time": START + at, "card": "c1", "shop": "s1", "kind": "a", "amount": 5, "age": 1, **changes}


def contents(store: HistoryStore) -> dict[Any, bytes]:
    return {place: stored.data for room in (PAYMENTS, "card", "shop") for place, stored in store.scan(room)}


def problem_of(found: object) -> RuleViolation:
    assert isinstance(found, RuleViolation), found
    return found


def test_an_answer(scoring_service: ScoringService, case: Case) -> None:
    answer = answer_of(scoring_service.score([payment(0, "x")])[0])
    table = case.scorer().score(frame([{**payment(0, "x"), "fraud": None, "reported": None}]))
    assert answer.to_dict() == {
        "id": "x",
        "raw_score": pytest.approx(table["raw_score"][0], abs=1e-6),
        "percentile": pytest.approx(table["percentile"][0], abs=1e-5),
        "probability": pytest.approx(table["probability"][0], abs=1e-5),
        "decision": None,
        "version": "0123456789ab",
        "arm": "champion",
        "degraded": False,
        "replayed": False,
    }
    assert scoring_service.score([]) == []


def test_a_decision(case: Case, store: HistoryStore) -> None:
    thresholds = DecisionPolicy(score="raw_score", decisions=(Decision("review", 0.0),))
    scoring_service = ScoringService(Scorer(replace(case.bundle, thresholds=thresholds)), store)
    for repeated in (False, True):
        answer = answer_of(scoring_service.score([payment(0, "x")])[0])
        assert (answer.decision, answer.replayed) == ("review", repeated)


def test_a_repeated_request_changes_nothing(scoring_service: ScoringService, store: HistoryStore) -> None:
    first = answer_of(scoring_service.score([payment(0, 17)])[0])  # type: ignore[arg-type]
    assert first.id == "17"
    for at in (10, 20):
        scoring_service.score([payment(at, f"later{at}")])
    before = contents(store)
    for same in (payment(0, 17), payment(0, "17", amount="5.0"), {**payment(0, "17"), "other": 1}):  # type: ignore[arg-type]
        assert scoring_service.score([same]) == [replace(first, replayed=True)]
    assert contents(store) == before


def test_twice_in_one_request(scoring_service: ScoringService, store: HistoryStore) -> None:
    found = scoring_service.score([payment(0, "x"), payment(0, "x"), payment(0, "x", amount=6), payment(5, "y")])
    assert answer_of(found[1]) == replace(answer_of(found[0]), replayed=True)
    assert problem_of(found[2]).rule == "conflicting_id"
    assert len(list(store.scan(PAYMENTS))) == 2
    (_, stored), *_ = store.scan("card")
    assert HistoryBlock.unpack(stored.data).events.ids == ("x", "y")


@pytest.mark.parametrize(
    ("change", "says"), [({"amount": 6}, "amount"), ({"time": START + 1}, "time"), ({"card": None}, "card")]
)
def test_an_id_with_other_content_is_refused(
    scoring_service: ScoringService, store: HistoryStore, change: dict[str, Any], says: str
) -> None:
    scoring_service.score([payment(0, "x")])
    before = contents(store)
    problem = problem_of(scoring_service.score([payment(0, "x", **change)])[0])
    assert (problem.rule, problem.field, problem.value) == ("conflicting_id", "id", "'x'")
    assert says in problem.expectation
    assert contents(store) == before


def test_bad_rows_do_not_spoil_the_others(scoring_service: ScoringService) -> None:
    rows: list[Any] = [payment(0, "x", amount="ten"), payment(0, "y"), 5, payment(0, "\ud800"), payment(4e9, "z")]
    rows += [payment(0, "v", card="\udfff"), {**payment(0, "w"), "\ud800": 1}]
    found = scoring_service.score(rows)
    answer_of(found[1])
    rules = [problem_of(one).rule for one in found if one is not found[1]]
    assert rules == ["not_a_number", "not_an_object", "not_a_text", "absurd_time", "not_a_text", "not_a_text"]


def test_a_payment_of_the_future(case: Case, store: HistoryStore) -> None:
    scoring_service = ScoringService(case.scorer(serving={"max_future_seconds": 60.0}), store, clock=lambda: START)
    found = scoring_service.score([payment(61, "x"), payment(59, "y")])
    assert problem_of(found[0]).rule == "future_time"
    answer_of(found[1])
    assert [place[1] for place, _ in store.scan(PAYMENTS)] == ["y"]


def test_too_late(case: Case, store: HistoryStore) -> None:
    scoring_service = ScoringService(case.scorer(serving={"max_late_days": 0.01}), store)
    assert len(scoring_service.score([payment(10_000, "new"), payment(9_500, "late")])) == 2
    problem = problem_of(scoring_service.score([payment(10_000 - 865, "later", shop=None)])[0])
    assert (problem.rule, problem.field) == ("too_late", "time")
    answer_of(scoring_service.score([payment(10_000 - 863, "not so late")])[0])
    answer_of(scoring_service.score([payment(0, "another key", card="c2", shop=None)])[0])


def test_a_late_payment_whose_history_is_gone(case: Case, store: HistoryStore) -> None:
    """However late is allowed, but never is a score made of half a history."""
    scoring_service = ScoringService(case.scorer(), store)
    scoring_service.score([payment(at * DAY, f"p{at}", shop=None) for at in range(12)])
    assert problem_of(scoring_service.score([payment(DAY + 1, "gone", shop=None)])[0]).rule == "too_late"
    answer_of(scoring_service.score([payment(11 * DAY - 5, "whole", shop=None)])[0])
    (_, stored), *_ = store.scan("card")
    assert len(HistoryBlock.unpack(stored.data)) < 12


def test_many_at_once_are_bounded(case: Case, store: HistoryStore) -> None:
    """A key that is used all the time keeps no more than a few hundred; in order, nobody is refused."""
    scoring_service = ScoringService(case.scorer(), store)
    for first in range(0, 600, 100):
        rows = [payment(at // 50, f"p{at:04d}", card=None) for at in range(first, first + 100)]
        assert all(not isinstance(found, RuleViolation) for found in scoring_service.score(rows))
    (_, stored), *_ = store.scan("shop")
    assert len(HistoryBlock.unpack(stored.data)) == 8 + 256
    assert problem_of(scoring_service.score([payment(0, "p", card=None)])[0]).rule == "too_late"


def at_one_time(n: int) -> list[dict[str, Any]]:
    """Payments of one shop on one day without a clock, under ids that say nothing of their order."""
    ids = np.random.default_rng(3).permutation(10 * n)[:n]
    return [payment(0, f"p{id_:06d}", card=None, amount=at % 90) for at, id_ in enumerate(ids)]


def arrived(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "fraud": None, "reported": None} for row in rows]


def test_many_at_one_time(case: Case, store: HistoryStore) -> None:
    """None is refused, and each is scored with what stands before it of all that came before."""
    scoring_service, rows = ScoringService(case.scorer(), store), at_one_time(700)
    found: dict[str, float] = {}
    for first in [*range(0, 690, 115), *range(690, 700)]:
        some = rows[first : first + (115 if first < 690 else 1)]
        found |= {answer_of(one).id: answer_of(one).raw_score for one in scoring_service.score(some)}
    for at in range(690, 700):
        assert_same({rows[at]["id"]: found[rows[at]["id"]]}, case.offline(arrived(rows[: at + 1])))
    answer_of(scoring_service.score([payment(2 * DAY, "next", card=None)])[0])
    (_, stored), *_ = store.scan("shop")
    assert len(HistoryBlock.unpack(stored.data)) == 8 + 1, "what no tie needs any longer is let go"


def test_many_at_one_time_in_a_log(case: Case, store: HistoryStore, tmp_path: Path) -> None:
    rows = at_one_time(700)
    frame(arrived(rows[:600])).write_parquet(tmp_path / "log.parquet")
    backfill(store, case.bundle, [tmp_path / "log.parquet"])
    found = {
        answer_of(one).id: answer_of(one).raw_score for one in ScoringService(case.scorer(), store).score(rows[600:])
    }
    assert_same(found, case.offline(arrived(rows)))


def test_more_at_one_time_than_are_kept(case: Case, store: HistoryStore) -> None:
    scoring_service, rows = ScoringService(case.scorer(), store), at_one_time(400)
    pipeline = scoring_service._pipeline
    pipeline.keep = {name: replace(keep, tie_events=300) for name, keep in pipeline.keep.items()}
    for first in range(0, 400, 100):
        scoring_service.score(rows[first : first + 100])
    problem = problem_of(scoring_service.score([payment(0, "p000000", card=None)])[0])
    assert (problem.rule, problem.field) == ("coarse_time", "time")
    answer_of(scoring_service.score([payment(0, "q" * 9, card=None)])[0])
    answer_of(scoring_service.score([payment(1, "p000001", card=None)])[0])


def test_null_keys_have_no_history(scoring_service: ScoringService, store: HistoryStore, case: Case) -> None:
    rows = [payment(at, f"p{at}", card=None, shop=None) for at in range(3)]
    found = {answer_of(one).id: answer_of(one).raw_score for row in rows for one in scoring_service.score([row])}
    assert_same(found, case.offline([{**row, "fraud": None, "reported": None} for row in rows]))
    assert not list(store.scan("card"))
    assert scoring_service.record_outcome("p1", True, START + 5)


def test_outcomes(scoring_service: ScoringService, store: HistoryStore, case: Case) -> None:
    scoring_service.score([payment(0, "x")])
    assert not scoring_service.record_outcome("nobody", True, START)
    with pytest.raises(DataError, match="must be finite"):
        scoring_service.record_outcome("x", True, float("nan"))

    def held() -> tuple[int, float]:
        record = Record.unpack(store.read([(PAYMENTS, "x")])[PAYMENTS, "x"].data)
        for room, key in (("card", "c1"), ("shop", "s1")):
            events = HistoryBlock.unpack(store.read([(room, key)])[room, key].data).events
            assert (events.label[0], events.known_at_seconds[0]) == (record.label, record.known_at_seconds)
        return record.label, record.known_at_seconds - START

    for fraud, at, expected in [
        (True, 100, (1, 100)),
        (True, 200, (1, 100)),  # again: it is known since the first report
        (True, 50, (1, 50)),
        (False, 40, (1, 50)),  # an older report
        (False, 60, (0, 60)),  # a newer one: the last one stands
    ]:
        assert scoring_service.record_outcome("x", fraud, START + at)
        assert held() == expected
    scoring_service.score([{**payment(10, "z"), "card": "c9", "shop": "s9"}])
    assert scoring_service.record_outcome("z", True, START + 5)
    assert Record.unpack(store.read([(PAYMENTS, "z")])[PAYMENTS, "z"].data).known_at_seconds == START + 10, (
        "not before it"
    )
    rows = [{**payment(0, "x"), "fraud": 0, "reported": START + 60.0}]
    for at in (59, 60):  # seen by payments from that time on
        rows.append({**payment(at, f"y{at}"), "fraud": None, "reported": None})
        found = answer_of(scoring_service.score([request(rows[-1])])[0])
        assert_same({found.id: found.raw_score}, case.offline(rows))


def test_histories_that_come_along(scoring_service: ScoringService, store: HistoryStore, case: Case) -> None:
    rows = random_rows(60, seed=3, cards=1, shops=1)
    rows = [{**row, "card": "c", "shop": "s"} for row in rows]
    now, expected = rows[-1], case.offline(rows)
    events = rows[:-1]
    found = scoring_service.score([request(now), request(now)], [{"card": events, "shop": events[-8:]}, {}])
    assert_same({now["id"]: answer_of(found[0]).raw_score}, expected)
    alone = case.offline([now])
    assert_same({now["id"]: answer_of(found[1]).raw_score}, alone)
    assert contents(store) == {}
    bad = [
        ({"person": events}, "unknown_history", "person"),
        ({"card": [{**events[0], "amount": "x"}]}, "not_a_number", "histories.card.amount"),
        ({"card": [events[0], events[0]]}, "duplicate_id", "histories.card"),
        ({"shop": [{**events[0], "time": now["time"] + 1}]}, "negative_age", "histories.shop"),
    ]
    found = scoring_service.score([request(now)] * len(bad), [histories for histories, _, _ in bad])
    assert [(problem_of(one).rule, problem_of(one).field) for one in found] == [(rule, field) for _, rule, field in bad]


def test_threads_are_as_if_one_came_after_the_other(case: Case, store: HistoryStore) -> None:
    """Four threads on one card and shop: all are there, once and in order, and all got an answer."""
    scoring_service = ScoringService(case.scorer(serving={"max_late_days": 1.0}), store)
    rows = [payment(0, f"p{at:02d}", amount=at) for at in range(40)]
    answers: dict[str, float] = {}

    def work(own: list[dict[str, Any]]) -> None:
        for row in own:
            answer = answer_of(scoring_service.score([row])[0])
            answers[answer.id] = answer.raw_score

    # rising times would make arrival in order likely: all are at one second, and ids are dealt out
    threads = [threading.Thread(target=work, args=(rows[first::4],)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (_, stored), *_ = store.scan("card")
    assert HistoryBlock.unpack(stored.data).events.ids == tuple(row["id"] for row in rows)
    assert len(answers) == 40


def test_a_store_that_is_down(case: Case, tmp_path: Path) -> None:
    if not RedisServer.installed():
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with RedisServer(tmp_path) as server, open_history(server.url, 0.2) as store:
        refusing = ScoringService(case.scorer(), store)
        flagging = ScoringService(case.scorer(serving={"on_history_unavailable": "degraded"}), store)
        answer_of(refusing.score([payment(0, "x")])[0])
        server.kill()
        assert problem_of(refusing.score([payment(1, "y")])[0]).rule == "history_unavailable"
        answer = answer_of(flagging.score([payment(1, "y")])[0])
        assert answer.degraded
        alone = case.offline([{**payment(1, "y"), "fraud": None, "reported": None}])
        assert_same({"y": answer.raw_score}, alone)
        server.start()
        assert not answer_of(refusing.score([payment(1, "y")])[0]).replayed, "it was not remembered"


def test_a_swap_encodes_anew(case: Case, store: HistoryStore) -> None:
    rows = random_rows(140, seed=4, cards=4, shops=2)
    rows = [{**row, "fraud": None, "reported": None} for row in rows]
    other = other_encoder(case)
    first, second = ScoringService(case.scorer(), store), ScoringService(case.scorer(), store)
    scores: dict[str, float] = {}
    for at, row in enumerate(rows):
        if at == 70:
            first.replace_bundle(other, "other")
        # from the middle on one process has the new bundle, another still the old one
        found = answer_of((first if at % 2 else second).score([request(row)])[0])
        scores[found.id] = found.raw_score
        assert found.version == ("other" if at >= 70 and at % 2 else "")
    old, new = case.offline(rows), case.offline(rows, other)
    assert max(abs(old[id_] - new[id_]) for id_ in old) > 1e-3
    assert_same(scores, {row["id"]: (new if at >= 70 and at % 2 else old)[row["id"]] for at, row in enumerate(rows)})


def other_encoder(case: Case) -> Scorer:
    """The same network over another encoding: values have changed places, numbers are scaled otherwise."""
    market = case.bundle.market
    rows = [{**row, "__time_seconds": row["time"], "amount": (row["amount"] or 0) * 9} for row in reversed(case.rows)]
    fitted = Encoder.fit(market, frame([]).clear().vstack(frame(rows)).with_columns(__time_seconds="time")[:700])
    vocabulary = replace(fitted.categorical_vocabularies[0], values=("c", "b", "a"))
    encoder = replace(
        case.bundle.encoder, numerical_scaling=fitted.numerical_scaling, categorical_vocabularies=(vocabulary,)
    )
    return Scorer(replace(case.bundle, encoder=encoder))


def histories(card: str = "card", shop: str = "shop", length: int = 6) -> list[dict[str, Any]]:
    return [{"name": "card", "key": card, "length": length}, {"name": "shop", "key": shop, "length": 9}]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"history": histories()[:1]}, "history shop: not in the bundle"),
        ({"history": histories("shop", "card")}, "its key is 'card'"),
        ({"history": histories(length=7)}, "holds 6 events in the store, 7"),
    ],
)
def test_a_store_of_other_histories_is_refused(
    case: Case, store: HistoryStore, change: dict[str, Any], says: str
) -> None:
    scoring_service = ScoringService(case.scorer(), store)
    scoring_service.score([payment(0, "x")])
    other = replace(case.bundle, market=Market.from_dict({**case.bundle.market.to_dict(), **change}))
    with pytest.raises(HistoryError, match=says):
        scoring_service.replace_bundle(Scorer(other))
    assert answer_of(scoring_service.score([payment(0, "x")])[0]).replayed, "the old bundle goes on"


def test_erasing_a_person(case: Case, store: HistoryStore) -> None:
    scoring_service = ScoringService(case.scorer(), store)
    scoring_service.score([payment(at, f"mine{at}", card="c-secret") for at in range(8)] + [payment(3, "other")])
    removed = erase(store, ("card", "c-secret"))
    assert (removed.payments, removed.events) == (8, 16)
    left = contents(store)
    assert set(left) == {(PAYMENTS, "other"), ("card", "c1"), ("shop", "s1")}
    assert not any(b"mine" in data or b"secret" in data for data in left.values())
    assert erase(store, ("card", "c-secret")).payments == 0
    answer_of(scoring_service.score([payment(9, "next", card="c-secret")])[0])


def test_nothing_lingers_in_the_file(case: Case, tmp_path: Path) -> None:
    with open_history(f"sqlite:///{tmp_path / 'x.db'}") as store:
        scoring_service = ScoringService(case.scorer(), store)
        for at in range(30):
            scoring_service.score([payment(at, f"mine-{at}", card="c-secret"), payment(at, f"other-{at}")])
        erase(store, ("card", "c-secret"))
        files = [path.read_bytes() for path in tmp_path.iterdir()]
        assert any(b"other-9" in data for data in files)
        assert not any(b"mine-" in data or b"c-secret" in data for data in files)


def test_old_payments_expire(case: Case, store: HistoryStore) -> None:
    scoring_service = ScoringService(case.scorer(), store)
    scoring_service.score([payment(at * DAY, f"p{at}", card=f"c{at // 3}") for at in range(6)])
    removed = expire(store, START + 4 * DAY, ["card", "shop"])
    assert (removed.payments, removed.events) == (4, 8)
    assert set(contents(store)) == {(PAYMENTS, "p4"), (PAYMENTS, "p5"), ("card", "c1"), ("shop", "s1")}
    assert expire(store, START + 4 * DAY, ["card", "shop"]).payments == 0


def test_retention_is_seen_from_the_payment(case: Case, store: HistoryStore) -> None:
    scorer = case.scorer(privacy={"retention_days": 0.2})
    rows = [{**row, "fraud": None, "reported": None} for row in random_rows(200, seed=6, cards=5, shops=3)]
    scoring_service = ScoringService(scorer, store)
    found = {
        answer_of(one).id: answer_of(one).raw_score for row in rows for one in scoring_service.score([request(row)])
    }
    assert_same(found, case.offline(rows, scorer))
    assert max(abs(found[id_] - score) for id_, score in case.offline(rows).items()) > 1e-4


def test_pseudonyms(case: Case, store: HistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s" * 40)
    privacy = {"privacy": {"pseudonymise": ["id", "card"], "secret_env": "SECRET"}}
    scoring_service = ScoringService(case.scorer(**privacy), store)
    assert answer_of(scoring_service.score([payment(0, "mine", card="c-secret")])[0]).id == "mine"
    assert answer_of(scoring_service.score([payment(0, "mine", card="c-secret")])[0]).replayed
    assert not any(b"mine" in data or b"c-secret" in data for data in contents(store).values())
    assert scoring_service.record_outcome("mine", True, START + 5)
    monkeypatch.setenv("SECRET", "t" * 40)
    with pytest.raises(HistoryError, match="another secret"):
        ScoringService(case.scorer(**privacy), store)
    with pytest.raises(HistoryError, match="pseudonymized columns"):
        ScoringService(case.scorer(), store)


def test_without_a_store(case: Case) -> None:
    scoring_service = ScoringService(case.scorer(), None)
    with pytest.raises(ConfigError, match="need a history store"):
        scoring_service.score([payment(0, "x")])
    assert len(scoring_service.score([payment(0, "x")], [{}])) == 1
    assert not scoring_service.record_outcome("x", True, START)
    assert np.isfinite(answer_of(scoring_service.score([payment(0, "x")], [{}])[0]).raw_score)
