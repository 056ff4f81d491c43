"""What a market file says of events and features holds online as offline: scores and reasons are those of the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.history_case import MARKET, Case, answer_of, assert_same, make_case, random_rows, replay, request
from tsa.config.market import Market
from tsa.errors import HistoryError
from tsa.serving.history.backfill import backfill
from tsa.serving.history.base import PAYMENTS
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.factory import open_history
from tsa.serving.history.maintenance import erase
from tsa.serving.history.metadata import bind_store
from tsa.serving.history.records import Record
from tsa.serving.http.openapi_schemas import Specification
from tsa.serving.scoring.scoring_service import ScoringService

DERIVED: list[dict[str, Any]] = [
    {"name": "hour", "kind": "hour_of_day", "zone": "Asia/Kolkata"},
    {"name": "per_age", "kind": "ratio", "columns": ["amount", "age"]},
    {"name": "group", "kind": "prefix", "columns": ["card"], "length": 2},
    {"name": "same", "kind": "equal", "columns": ["kind", "note"]},
]
FEATURES: dict[str, Any] = {
    "calendar": ["hour_of_day"],
    "categorical": [{"name": name, "min_count": 1} for name in ("kind", "hour", "group", "same")],
    "numerical": [{"name": "amount", "transform": "signed_log1p"}, "per_age"],
    "engineered": [{"name": "age"}],
    "derived": DERIVED,
}
DERIVED_MARKET = {
    **MARKET,
    "features": FEATURES,
    "history": [*MARKET["history"], {"name": "group", "key": "group", "length": 5}],
}


def rows_with_notes(n: int, seed: int) -> list[dict[str, Any]]:
    return [{**row, "note": ("a", "b", None)[at % 3]} for at, row in enumerate(random_rows(n, seed))]


ROLES_MARKET = {
    **MARKET,
    "event": {
        **MARKET["event"],
        "scored": {"column": "what", "values": ["payment"]},
        "asks": {"column": "what", "values": ["question"]},
    },
}


WHATS = ("payment", "login", "question")


def rows_with_roles(n: int, seed: int) -> list[dict[str, Any]]:
    return [
        {**row, "what": (*WHATS, "payment")[at * 7 % 4]}
        for at, row in enumerate(random_rows(n, seed, cards=9, shops=4))
    ]


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("roles"), ROLES_MARKET, rows=rows_with_roles(800, 0))


def test_logins_and_questions_online_as_offline(roles: Case, history_url: str) -> None:
    rows = rows_with_roles(300, 1)
    with open_history(history_url) as store:
        found = replay(ScoringService(roles.scorer(), store), rows)
        stored = {id_ for _, block in store.scan("card") for id_ in HistoryBlock.unpack(block.data).events.ids}
    assert set(found) == {row["id"] for row in rows if row["what"] != "login"}
    assert_same(found, roles.offline(rows))
    assert not stored & {row["id"] for row in rows if row["what"] == "question"}
    assert stored & {row["id"] for row in rows if row["what"] == "login"}


def test_logins_matter_and_questions_do_not(roles: Case) -> None:
    rows = rows_with_roles(300, 1)
    expected = roles.offline(rows)
    payments = [row["id"] for row in rows if row["what"] == "payment"]
    alone = roles.offline([row for row in rows if row["what"] != "question"])
    assert {id_: alone[id_] for id_ in payments} == {id_: expected[id_] for id_ in payments}
    without = roles.offline([row for row in rows if row["what"] != "login"])
    assert sum(without[id_] != expected[id_] for id_ in payments) > len(payments) / 2


def test_a_batch_with_questions_is_that_of_a_log(roles: Case, tmp_path: Path) -> None:
    rows = [{**row, "fraud": None, "reported": None} for row in rows_with_roles(120, 2)]
    found = {}
    with open_history(f"sqlite:///{tmp_path / 'x.db'}") as store:
        service = ScoringService(roles.scorer(), store)
        for at in range(0, len(rows), 40):
            answers = service.score([request(row) for row in rows[at : at + 40][::-1]])
            found |= {a.id: a.raw_score for a in map(answer_of, answers) if a.raw_score is not None}
        again = answer_of(service.score([request(rows[2])])[0])
    assert_same(found, roles.offline(rows))
    assert (again.raw_score, again.replayed) == (found.get(rows[2]["id"]), True)
    table = roles.scorer().score([request(row) for row in rows])
    expected = roles.offline(rows)
    assert table["id"].to_list() == [row["id"] for row in rows]
    for id_, score in table.select("id", "raw_score").iter_rows():
        assert score == (None if id_ not in expected else pytest.approx(expected[id_], abs=1e-6))


def test_a_filled_store_has_no_questions(roles: Case, history_url: str) -> None:
    later = {**roles.rows[-1], "id": "later", "what": "question", "time": roles.rows[-1]["time"] + 172_800.0}
    later |= {"fraud": None, "reported": None}
    with open_history(history_url) as store:
        backfill(store, roles.bundle, [roles.log])
        stored = {id_ for _, block in store.scan("shop") for id_ in HistoryBlock.unpack(block.data).events.ids}
        answer = answer_of(ScoringService(roles.scorer(), store).score([request(later)])[0])
    assert not stored & {row["id"] for row in roles.rows if row["what"] == "question"}
    assert_same({"later": answer.raw_score or 0.0}, roles.offline([*roles.rows, later]))


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("derived"), DERIVED_MARKET, rows=rows_with_notes(800, 0))


def test_derived_features_online_as_offline(derived: Case, history_url: str) -> None:
    rows = rows_with_notes(300, 1)
    with open_history(history_url) as store:
        found = replay(ScoringService(derived.scorer(), store), rows)
        records = [Record.unpack(stored.data) for _, stored in store.scan(PAYMENTS)]
    assert_same(found, derived.offline(rows))
    assert all(
        record.keys["group"] == (record.keys["card"] or "")[:2] or None for record in records if record.keys["card"]
    )
    changed = [{**row, "note": "a"} for row in rows]
    assert derived.offline(changed) != derived.offline(rows), "it does matter"


def test_a_filled_store_answers_as_the_log(derived: Case, history_url: str) -> None:
    rows = rows_with_notes(800, 0)
    later = {**rows[-1], "id": "later", "time": rows[-1]["time"] + 86_400 * 2.0, "fraud": None, "reported": None}
    with open_history(history_url) as store:
        backfill(store, derived.bundle, [derived.log])
        answer = answer_of(ScoringService(derived.scorer(), store).score([request(later)])[0])
    assert_same({"later": answer.raw_score}, derived.offline([*rows, later]))


@pytest.mark.parametrize("kind", ["roles", "derived"])
def test_the_order_of_rows_and_later_events_change_no_score(roles: Case, derived: Case, kind: str) -> None:
    """Of later events the kind, the values that features are derived from, keys and outcomes are changed, or they are gone."""
    case, made = (roles, rows_with_roles) if kind == "roles" else (derived, rows_with_notes)
    rows = made(240, 3)
    expected, order = case.offline(rows), np.random.default_rng(0).permutation(len(rows))
    assert case.offline([rows[at] for at in order]) == expected
    cut = 160
    now = (rows[cut]["time"], rows[cut]["id"])
    early = [row for row in rows if (row["time"], row["id"]) <= now]
    late = [row for row in rows if (row["time"], row["id"]) > now]
    wanted = {row["id"]: expected[row["id"]] for row in early if row["id"] in expected}
    others = [
        {**row, "amount": 9.0, "age": 1.0, "card": "c1", "kind": "c", "fraud": 1, "reported": row["time"] + 5.0}
        | ({"what": "login"} if kind == "roles" else {"note": "c"})
        for row in late
    ]
    for changed in (others, []):
        found = case.offline([*early, *changed])
        assert {id_: found[id_] for id_ in wanted} == wanted


def test_an_erased_card_takes_its_questions_and_logins_with_it(roles: Case, history_url: str) -> None:
    rows = rows_with_roles(200, 4)
    own = {kind: {row["id"] for row in rows if (row["card"], row["what"]) == ("c1", kind)} for kind in WHATS}
    assert all(own.values())
    with open_history(history_url) as store:
        replay(ScoringService(roles.scorer(), store), rows)
        before = {place[1] for place, _ in store.scan(PAYMENTS)}
        erase(store, ("card", "c1"))
        after = {place[1] for place, _ in store.scan(PAYMENTS)}
        left = {id_ for _, block in store.scan("shop") for id_ in HistoryBlock.unpack(block.data).events.ids}
    everything = set().union(*own.values())
    assert own["question"] & before, "answers to questions are remembered"
    assert not everything & after
    assert not everything & left
    assert left


def test_the_form_asks_for_what_is_needed(derived: Case) -> None:
    specification = Specification(derived.bundle.market, derived.bundle.encoder)
    columns = {column["name"]: column["kind"] for column in specification.columns}
    assert columns["note"] == "text"
    assert not columns.keys() & {feature["name"] for feature in DERIVED}
    assert set(specification.payment()["required"]) == columns.keys()
    service = ScoringService(derived.scorer(), None)
    histories: dict[str, Any] = {"card": []}
    answer_of(service.score([{**specification.example(), "time": 1_525_651_200}], [histories])[0])


def test_a_store_with_other_derived_values_is_refused(derived: Case, history_url: str) -> None:
    market = derived.bundle.market.to_dict()
    market["features"]["derived"][2]["length"] = 1
    with open_history(history_url) as store:
        lengths = derived.bundle.visible_lengths
        bind_store(store, derived.bundle.market, derived.bundle.encoder, lengths)
        with pytest.raises(HistoryError, match=r"features\.derived\.group: computed from"):
            bind_store(store, Market.from_dict(market), derived.bundle.encoder, lengths)
