"""The commands on history stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.history_case import START, Case, answer_of, frame, random_rows, request
from tsa.serving.history.backfill import backfill
from tsa.serving.history.base import PAYMENTS
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.factory import open_history
from tsa.serving.history.records import Record
from tsa.serving.scoring.scoring_service import ScoringService

Tsa = Callable[..., Any]


def contents(url: str) -> dict[Any, bytes]:
    with open_history(url) as store:
        return {place: stored.data for room in (PAYMENTS, "card", "shop") for place, stored in store.scan(room)}


def test_load_show_erase_expire(tsa: Tsa, case: Case, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    for command in (("show",), ("delete", "--key", "card=c3"), ("prune", "--days", 1)):
        refused = tsa("history", command[0], "--history", url, *command[1:])
        assert refused.code == 2
        assert f"sqlite:///{tmp_path}/x.db: there is no such store" in refused.err
    assert not (tmp_path / "x.db").exists(), "a mistyped name makes no file"
    loaded = tsa("history", "load", case.path, case.log, "--history", url)
    assert loaded.code == 0, loaded.err
    assert loaded.out.startswith("1,500 payments read, ")
    before = contents(url)
    again = tsa("history", "load", case.path, case.log, "--history", url)
    assert again.out == "1,500 payments read, 0 added, 0 histories changed\n"
    assert contents(url) == before
    shown = tsa("history", "show", "--history", url).out
    assert "market shops" in shown
    assert "card (card): 40 keys" in shown
    one = tsa("history", "show", "--history", url, "--key", "card=c3").out.splitlines()
    last = [row for row in case.rows if row["card"] == "c3"][-1]
    moment = datetime.fromtimestamp(last["time"], UTC).isoformat(timespec="seconds")
    assert one[-1].startswith(f"{moment} {last['id']} ")
    erased = tsa("history", "delete", "--history", url, "--key", "card=c3")
    assert int(erased.out.removeprefix("deleted: ").split()[0]) >= len(one)
    assert tsa("history", "show", "--history", url, "--key", "card=c3").out == ""
    assert not any(Record.unpack(data).keys["card"] == "c3" for (room, _), data in contents(url).items() if not room)
    assert "above 0 if the market has no privacy.retention_days" in tsa("history", "prune", "--history", url).err
    assert "deleted: " in tsa("history", "prune", "--history", url, "--days", 30).out
    assert contents(url) == {}


def test_adopt(
    tsa: Tsa,
    case: Case,
    history_url: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # the log file of a load into Redis
    assert tsa("history", "load", case.path, case.log, "--history", history_url).code == 0
    assert "new store, 0 payments" in caplog.text
    with open_history(history_url) as store:
        scoring_service = ScoringService(case.scorer(), store)
        adopted = tsa("history", "adopt", "--history", history_url)
        assert adopted.out == f"adopted: {sum(1 for _ in store.scan('')):,} payments\n"
        answer_of(scoring_service.score([request({**case.rows[-1], "id": "next"})])[0])
        assert store.turns == 1
    assert "market shops" in tsa("history", "show", "--history", history_url).out


def test_what_clients_send_does_not_move_the_cursor(tsa: Tsa, case: Case, history_url: str) -> None:
    """Nor does it forge lines, nor turn the direction of writing."""
    odd = "x\n2018-05-07T00:00:00+00:00 p-7 fraud\x1b[2K\x1b]0;owned\x07\u202e\u2028\x9b"
    with open_history(history_url) as store:
        answer_of(ScoringService(case.scorer(), store).score([{**request(case.rows[0]), "id": odd, "card": "c"}])[0])
    shown = tsa("history", "show", "--history", history_url, "--key", "card=c").out
    assert shown.count("\n") == 1
    assert shown.removesuffix("\n").isprintable()
    assert "\\x1b[2K" in shown


@pytest.mark.parametrize("key", ["c3", "person=c3", "card="])
def test_keys(tsa: Tsa, case: Case, tmp_path: Path, key: str) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with open_history(url) as store:
        ScoringService(case.scorer(), store)
    refused = tsa("history", "delete", "--history", url, "--key", key)
    assert refused.code == 2
    assert "--key must be HISTORY=VALUE" in refused.err


def test_what_is_loaded_is_what_would_have_been_appended(case: Case, history_url: str, tmp_path: Path) -> None:
    """The same blocks and records, but for the answers, as payments that came one at a time leave."""
    with open_history(history_url) as store:
        backfill(store, case.bundle, [case.log])
    loaded = contents(history_url)
    with open_history(other := f"sqlite:///{tmp_path / 'other.db'}") as store:
        scoring_service = ScoringService(case.scorer(), store)
        for first in range(0, len(case.rows), 100):
            scoring_service.score([request(row) for row in case.rows[first : first + 100]])
        for row in case.rows:
            if row["fraud"] is not None:
                scoring_service.record_outcome(row["id"], bool(row["fraud"]), row["reported"])
    appended = contents(other)
    assert loaded.keys() <= appended.keys()
    assert {place for place in appended if place[0]} == {place for place in loaded if place[0]}
    for place, data in loaded.items():
        if place[0]:
            assert HistoryBlock.unpack(data).pack() == HistoryBlock.unpack(appended[place]).pack()
        else:
            kept = Record.unpack(appended[place])
            assert kept.answer is not None
            assert Record.unpack(data) == Record(**{**vars(kept), "answer": None})


def test_loading_beside_traffic(case: Case, history_url: str) -> None:
    """What is there stays, the log fills in what was before and between, and brings outcomes along."""
    rows = case.rows[:400]
    frame(rows).write_parquet(case.folder / "some.parquet")
    with open_history(history_url) as store:
        scoring_service = ScoringService(case.scorer(), store)
        answers = [answer_of(scoring_service.score([request(row)])[0]) for row in rows[200::2]]
        backfill(store, case.bundle, [case.folder / "some.parquet"])
        assert backfill(store, case.bundle, [case.folder / "some.parquet"]).changed == 0
        records = {place[1]: Record.unpack(stored.data) for place, stored in store.scan(PAYMENTS)}
        for answer in answers:
            assert records[answer.id].answer == answer.stored_fields()
        for (name, key), stored in [*store.scan("card"), *store.scan("shop")]:
            events = HistoryBlock.unpack(stored.data).events
            own = [row for row in rows if row[name] == key]
            count = {"card": 5, "shop": 8}[name]
            assert list(events.ids[-count:]) == [row["id"] for row in own[-count:]]
            labels = [-1 if row["fraud"] is None else row["fraud"] for row in own[-count:]]
            assert events.label[-count:].tolist() == labels
        found = scoring_service.score([request(rows[200]), request(rows[399])])
        assert answer_of(found[0]).replayed
        assert not answer_of(found[1]).replayed, "loaded, and now asked for"
        assert answer_of(scoring_service.score([request(rows[399])])[0]).replayed


def test_retention_and_conflicts(case: Case, tmp_path: Path) -> None:
    rows = random_rows(300, seed=8)
    frame(rows).write_parquet(tmp_path / "log.parquet")
    scorer = case.scorer(privacy={"retention_days": 0.3})
    with open_history(f"sqlite:///{tmp_path / 'x.db'}") as store:
        backfill(store, scorer.bundle, [tmp_path / "log.parquet"])
        oldest = rows[-1]["time"] - 0.3 * 86_400
        held = {place[1] for place, _ in store.scan(PAYMENTS)}
        assert held == {row["id"] for row in rows if row["time"] >= oldest and (row["card"] or row["shop"])}
        frame([{**row, "amount": 1.0} for row in rows]).write_parquet(tmp_path / "other.parquet")
        with pytest.raises(
            Exception, match=r"must have the same values in the log and the store [(]got another amount"
        ):
            backfill(store, scorer.bundle, [tmp_path / "other.parquet"])
    assert oldest > START
