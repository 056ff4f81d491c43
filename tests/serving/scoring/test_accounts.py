"""Transfers between accounts at the endpoint: as in the log, in the histories of both, and erased from both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from support.history_case import MARKET, Case, answer_of, assert_same, frame, make_case, random_rows, replay, request
from tsa.data.store.prepare import prepare
from tsa.explain.explainer import Explainer
from tsa.inference.export_bundle import export_bundle
from tsa.inference.scorer import Scorer
from tsa.model.collate import request_batch
from tsa.serving.history.backfill import backfill
from tsa.serving.history.base import PAYMENTS
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.factory import open_history
from tsa.serving.history.maintenance import erase
from tsa.serving.history.records import Record
from tsa.serving.scoring.pipeline import ScoringPipeline
from tsa.serving.scoring.preview import ScoringInput, load_scoring_input
from tsa.serving.scoring.scoring_service import RuleViolation, ScoringService

ACCOUNTS: dict[str, Any] = {
    **MARKET,
    "history": [
        {"name": "account", "keys": ["card", "shop"], "length": 6},
        {"name": "kind", "key": "kind", "length": 3},
    ],
}
Row = dict[str, Any]


def transfers(n: int, seed: int) -> list[Row]:
    """Payments from one account to another of the same few accounts, some to itself."""
    rows = random_rows(n, seed, cards=12, shops=12)
    return [{**row, "shop": row["shop"] and row["shop"].replace("s", "c")} for row in rows]


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("accounts"), ACCOUNTS, rows=transfers(800, 0))


def stored_ids(store: Any, key: str) -> list[str]:
    stored = store.read([("account", key)]).get(("account", key))
    return [] if stored is None else list(HistoryBlock.unpack(stored.data).events.ids)


def test_transfers_online_as_offline(accounts: Case, history_url: str) -> None:
    rows = transfers(300, 1)
    expected = accounts.offline(rows)
    with open_history(history_url) as store:
        found = replay(ScoringService(accounts.scorer(), store), rows)
        for key in ("c1", "c7"):
            own = [row["id"] for row in rows if key in (row["card"], row["shop"])]
            assert stored_ids(store, key)[-5:] == own[-5:], "each once, to oneself too"
        records = {place[1]: Record.unpack(stored.data) for place, stored in store.scan(PAYMENTS)}
    assert_same(found, expected)
    itself = next(row for row in rows if row["card"] == row["shop"] is not None)
    assert records[itself["id"]].keys["account"] == [itself["card"], itself["shop"]]
    assert records[itself["id"]].places[0] == ("account", itself["card"])
    swapped = accounts.offline([{**row, "card": row["shop"], "shop": row["card"]} for row in rows])
    assert sum(swapped[id_] != expected[id_] for id_ in expected) > len(rows) / 2, "roles matter"


def test_a_batch_of_transfers_is_that_of_a_log(accounts: Case, tmp_path: Path) -> None:
    rows = [{**row, "fraud": None, "reported": None} for row in transfers(120, 2)]
    found = {}
    with open_history(f"sqlite:///{tmp_path / 'x.db'}") as store:
        service = ScoringService(accounts.scorer(), store)
        for at in range(0, len(rows), 40):
            answers = service.score([request(row) for row in rows[at : at + 40][::-1]])
            found |= {answer.id: answer.raw_score for answer in map(answer_of, answers)}
    assert_same({id_: score for id_, score in found.items() if id_ and score}, accounts.offline(rows))


def test_a_filled_store_and_an_erased_account(accounts: Case, history_url: str) -> None:
    rows = accounts.rows
    later = {**rows[-1], "id": "later", "time": rows[-1]["time"] + 172_800.0, "card": "c1", "shop": "c2"}
    later |= {"fraud": None, "reported": None}
    with open_history(history_url) as store:
        backfill(store, accounts.bundle, [accounts.log])
        assert backfill(store, accounts.bundle, [accounts.log]).changed == 0
        own = [row["id"] for row in rows if "c2" in (row["card"], row["shop"])]
        assert stored_ids(store, "c2")[-5:] == own[-5:]
        answer = answer_of(ScoringService(accounts.scorer(), store).score([request(later)])[0])
        assert_same({"later": answer.raw_score or 0.0}, accounts.offline([*rows, later]))
        removed = erase(store, ("account", "c2"))
        assert removed.payments > 0
        assert stored_ids(store, "c2") == []
        left = {id_ for at in range(12) for id_ in stored_ids(store, f"c{at}")}
        assert left
        assert not left & {"later", *own}, "also from the histories of the other accounts"
        records = [Record.unpack(stored.data) for _, stored in store.scan(PAYMENTS)]
    assert not any(("account", "c2") in record.places for record in records)


def test_histories_in_the_request(accounts: Case) -> None:
    rows = transfers(200, 3)
    at = next(at for at in range(150, 200) if rows[at]["card"] and rows[at]["shop"] and rows[at]["kind"])
    row, before = rows[at], rows[:at]
    views = {"account_card": row["card"], "account_shop": row["shop"]}
    histories: dict[str, Any] = {
        name: [other for other in before if key in (other["card"], other["shop"])][-5:] for name, key in views.items()
    }
    histories["kind"] = [other for other in before if other["kind"] == row["kind"]][-2:]
    service = ScoringService(accounts.scorer(), None)
    # outcomes that are not known yet at the time are not seen; a known one is read from the request
    answer = answer_of(service.score([request(row)], [histories])[0])
    assert_same({row["id"]: answer.raw_score or 0.0}, accounts.offline(rows[: at + 1]))
    foreign = {**before[0], "card": "c99", "shop": "c98"}
    problem = service.score([request(row)], [{**histories, "account_shop": [foreign]}])[0]
    assert isinstance(problem, RuleViolation)
    assert (problem.rule, problem.field) == ("no_role", "histories.account_shop")
    assert "this payment's shop as card or shop" in problem.expectation


def test_an_exported_graph_scores_transfers_alike(accounts: Case, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shutil.copytree(accounts.path, tmp_path / "bundle")
    export_bundle(tmp_path / "bundle", log=accounts.log)
    rows = transfers(150, 5)
    scorer = Scorer.load(tmp_path / "bundle", engine="onnxruntime")
    found = scorer.score(frame(rows))
    scores = dict(zip(found["id"].to_list(), found["raw_score"].to_list(), strict=True))
    expected = accounts.offline(rows)
    assert max(abs(scores[id_] - expected[id_]) for id_ in expected) < 1e-5


def test_explanations_name_roles(accounts: Case, history_url: str, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    rows = transfers(200, 4)
    last = next(row for row in reversed(rows) if row["card"] and row["shop"] and row["card"] != row["shop"])
    before = [row for row in rows if (row["time"], row["id"]) < (last["time"], last["id"])]
    pipeline = ScoringPipeline(accounts.scorer(), "", lambda: last["time"])
    with open_history(history_url) as store:
        replay(ScoringService(accounts.scorer(), store), before)
        seen = load_scoring_input(pipeline, store, request(last))
    assert isinstance(seen, ScoringInput)
    explainer = Explainer(accounts.bundle)
    online = explainer.explain(request_batch(seen.requests), seen.payment, seen.earlier)
    roles = {history.name: [event.values["account role"] for event in history.events] for history in online.histories}
    for name, key in (("account_card", last["card"]), ("account_shop", last["shop"])):
        own = [row for row in before if key in (row["card"], row["shop"])][-5:]
        both = [row["card"] == row["shop"] for row in own]
        assert roles[name] == [
            "both" if twice else "card" if row["card"] == key else "shop" for row, twice in zip(own, both, strict=True)
        ]
    assert set(roles["kind"]) <= {None}
    assert {feature.name: feature.value for feature in online.features}["account role"] == "card"
    store_of_log = prepare(accounts.bundle.market, [accounts.log], tmp_path / "store", encoder=accounts.bundle.encoder)
    offline = next(iter(explainer.explain_rows(store_of_log, [len(store_of_log) - 1])))
    assert all("account role" in event.values for history in offline.histories for event in history.events)
