"""What a history store says of itself: its version, and how many events it keeps."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from support.history_case import Case, frame, random_rows, replay, request
from tsa.config.market import Market
from tsa.errors import HistoryError
from tsa.serving.history.backfill import backfill
from tsa.serving.history.base import HistoryStore, WriteBatch
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.factory import open_history
from tsa.serving.history.metadata import OLD_PLACE, PLACE, check_store, read_metadata
from tsa.serving.scoring.scoring_service import ScoringService


@pytest.mark.parametrize(("place", "data"), [(OLD_PLACE, b"{}"), (PLACE, b'{"version": 1}')])
def test_an_older_store_is_refused(place: tuple[str, str], data: bytes, tmp_path: Path) -> None:
    with open_history(f"sqlite:///{tmp_path / 'histories.db'}") as store:
        assert read_metadata(store) is None
        assert store.commit(WriteBatch(expected_versions={place: None}, puts={place: data}))
        with pytest.raises(
            HistoryError, match=r"reads history stores of version 4.*; load a new one with tsa history load"
        ):
            read_metadata(store)


def test_tables_of_an_older_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "histories.db"
    with closing(sqlite3.connect(path)) as link:
        link.execute("create table payments (name text primary key, stamp integer not null, data blob not null)")
    with pytest.raises(HistoryError, match=r"got those of version 3 or older\); load a new one with tsa history load"):
        open_history(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as link:
        assert link.execute("select name from sqlite_master").fetchall()[0] == ("payments",)


def kept(store: HistoryStore, name: str) -> int:
    """The most events of a key that a store holds."""
    return max(len(HistoryBlock.unpack(stored.data)) for _, stored in store.scan(name))


def only_now(case: Case) -> Case:
    """Late payments are refused, so that blocks hold what a payment sees and nothing else."""
    market = {**case.bundle.market.to_dict(), "serving": {"max_late_days": 0}}
    return replace(case, bundle=replace(case.bundle, market=Market.from_dict(market)))


def test_trees_and_what_they_see_decide_how_much_is_kept(case: Case, combined_case: Case, tmp_path: Path) -> None:
    network, combined = only_now(case), only_now(combined_case)
    assert network.bundle.visible_lengths == {"card": 6, "shop": 9}
    assert combined.bundle.visible_lengths == {"card": 20, "shop": 20}
    rows = random_rows(80, cards=2, shops=2)
    for one, card, shop in ((network, 6, 9), (combined, 20, 20)):
        with open_history(f"sqlite:///{tmp_path / f'{card}.db'}") as store:
            replay(ScoringService(one.scorer(), store), rows)
            assert (kept(store, "card"), kept(store, "shop")) == (card, shop)


def test_what_a_log_loads_is_as_long(combined_case: Case, tmp_path: Path) -> None:
    combined = only_now(combined_case)
    rows = random_rows(80, cards=2, shops=2)
    frame(rows).write_parquet(tmp_path / "log.parquet")
    with open_history(f"sqlite:///{tmp_path / 'x.db'}") as store:
        backfill(store, combined.bundle, [tmp_path / "log.parquet"])
        assert (kept(store, "card"), kept(store, "shop")) == (20, 20)


def test_a_store_of_a_network_is_too_short_for_trees(case: Case, combined_case: Case, tmp_path: Path) -> None:
    with open_history(f"sqlite:///{tmp_path / 'x.db'}") as store:
        service = ScoringService(case.scorer(), store)
        rule = "card: holds 6 events in the store, 20 in the bundle: load a new store"
        with pytest.raises(HistoryError, match=rule):
            service.replace_bundle(combined_case.scorer())
        bundle = combined_case.bundle
        with pytest.raises(HistoryError, match=rule):
            check_store(store, bundle.market, bundle.encoder, bundle.visible_lengths)


def test_a_bundle_may_go_back_to_a_network_and_forth_again(case: Case, combined_case: Case, tmp_path: Path) -> None:
    """A store that was first used with trees goes on keeping what they see."""
    network, combined = only_now(case), only_now(combined_case)
    rows = random_rows(80, cards=2, shops=2)
    with open_history(f"sqlite:///{tmp_path / 'x.db'}") as store:
        service = ScoringService(combined.scorer(), store)
        service.score([request(row) for row in rows[:40]])
        service.replace_bundle(network.scorer())
        service.score([request(row) for row in rows[40:]])
        assert (kept(store, "card"), kept(store, "shop")) == (20, 20)
        service.replace_bundle(combined.scorer())
