"""What a market file says of events and features holds online as offline: scores and reasons are those of the log."""

from __future__ import annotations

from typing import Any

import pytest

from support.history_case import MARKET, Case, answer_of, assert_same, make_case, random_rows, replay, request
from tsa.config.market import Market
from tsa.errors import HistoryError
from tsa.serving.history.backfill import backfill
from tsa.serving.history.base import PAYMENTS
from tsa.serving.history.factory import open_history
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
        bind_store(store, derived.bundle.market, derived.bundle.encoder)
        with pytest.raises(HistoryError, match=r"features\.derived\.group: computed from"):
            bind_store(store, Market.from_dict(market), derived.bundle.encoder)
