"""A store that was emptied, replaced, set back or robbed of some of its keys is noticed: nobody is scored as if without a past."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from support.endpoint import endpoint, made_bundle
from support.endpoint import payment as shop_payment
from support.history_case import START, Case, RedisServer, answer_of
from tsa.errors import ConfigError, HistoryError, HistoryLost, HistoryUnavailable
from tsa.serving.history import sqlite_file, sqlite_rows
from tsa.serving.history.base import PAYMENTS, HistoryStore
from tsa.serving.history.factory import open_history
from tsa.serving.history.maintenance import erase
from tsa.serving.history.metadata import stored_market
from tsa.serving.history.sqlite_file import CHECK_SECONDS
from tsa.serving.scoring.scoring_service import RuleViolation, ScoringService

IDENTITY, GENERATION, KEY_SET = "{tsa}:.:identity", "{tsa}:.:generation", "{tsa}:.:keys"


@pytest.fixture
def store(history_url: str):  # type: ignore[no-untyped-def]
    with open_history(history_url) as opened:
        yield opened


@pytest.fixture
def scoring_service(case: Case, store: HistoryStore) -> ScoringService:
    found = ScoringService(case.scorer(), store)
    for at in range(8):
        answer_of(found.score([payment(at, f"p{at}")])[0])
    return found


@pytest.fixture
def keys(redis_server: RedisServer, history_url: str) -> Any:
    """A client of the Redis; the tests that use it are not for SQLite."""
    if history_url.startswith("sqlite"):
        pytest.skip("rows of SQLite are not dropped one by one")
    return redis_server.client()


def payment(at: float, id_: str, **changes: Any) -> dict[str, Any]:
    return {"id": id_, "time": START + at, "card": "c1", "shop": "s1", "kind": "a", "amount": 5, "age": 1, **changes}


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def files(url: str) -> list[Path]:
    return [Path(f"{path_of(url)}{end}") for end in ("", "-wal", "-shm")]


def emptied(url: str) -> None:
    if url.startswith("sqlite"):
        for path in files(url):
            path.unlink(missing_ok=True)
    else:
        client(url).flushall()


def client(url: str) -> Any:
    import redis

    return redis.Redis.from_url(url)


def adopted(url: str) -> None:
    """What `tsa history adopt` does."""
    with open_history(url, new="adopt") as own:
        own.adopt()


def rule_of(scoring_service: ScoringService, row: dict[str, Any]) -> str:
    (found,) = scoring_service.score([row])
    return found.rule if isinstance(found, RuleViolation) else "degraded" if found.degraded else "scored"


def test_an_emptied_store(case: Case, scoring_service: ScoringService, history_url: str) -> None:
    flagging = ScoringService(case.scorer(serving={"on_history_unavailable": "degraded"}), scoring_service._store)
    emptied(history_url)
    assert [rule_of(scoring_service, payment(10 + at, f"q{at}")) for at in range(3)] == ["history_lost"] * 3
    assert rule_of(scoring_service, payment(0, "p0")) == "history_lost", "not even what was answered is known"
    assert rule_of(flagging, payment(10, "q0")) == "degraded"
    with pytest.raises(HistoryLost, match="adopt"):
        scoring_service.record_outcome("p0", True, START + 9)
    adopted(history_url)
    assert rule_of(scoring_service, payment(10, "q0")) == "scored"
    assert scoring_service.record_outcome("q0", True, START + 11)
    with open_history(history_url, new="refuse") as other:
        assert stored_market(other).name == "shops", "it is again one of this market"
        assert [place for place, _ in other.scan(PAYMENTS)] == [(PAYMENTS, "q0")]


def test_a_store_that_is_filled_anew_is_not_taken_for_the_old_one(
    case: Case, scoring_service: ScoringService, history_url: str
) -> None:
    emptied(history_url)
    with open_history(history_url) as other:
        ScoringService(case.scorer(), other).score([payment(0, "other")])
    assert rule_of(scoring_service, payment(10, "q")) == "history_lost"
    adopted(history_url)
    assert rule_of(scoring_service, payment(10, "q")) == "scored"


def test_a_store_of_another_bundle_is_not_adopted(
    case: Case, scoring_service: ScoringService, history_url: str
) -> None:
    emptied(history_url)
    adopted(history_url)
    market = case.bundle.market.to_dict()
    shorter = [{**table, "length": 3} for table in market["history"]]
    with open_history(history_url) as other:
        ScoringService(case.scorer(history=shorter), other)
    problem = scoring_service.score([payment(10, "q")])[0]
    assert isinstance(problem, RuleViolation)
    assert (problem.rule, problem.value) == ("history_lost", "it is not of this bundle")


def test_a_removed_file_that_is_still_read_after_the_adoption(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks at the path the removed file answers. The store adopted meanwhile need not be adopted again."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with open_history(url) as store:
        scoring_service = ScoringService(case.scorer(), store)
        answer_of(scoring_service.score([payment(0, "a")])[0])
        with monkeypatch.context() as patched:
            patched.setattr(sqlite_file, "CHECK_SECONDS", 3600.0)
            store.check()
            time.sleep(2 * CHECK_SECONDS)
            store.check()  # the next look is an hour away
            emptied(url)
            adopted(url)
            assert store.read([(PAYMENTS, "a")]), "of the removed file"
        store._file._check_at = 0.0  # type: ignore[attr-defined]
        assert rule_of(scoring_service, payment(1, "b")) == "scored"
        assert store.turns == 1


def test_a_store_that_has_gone_back(
    case: Case, scoring_service: ScoringService, store: HistoryStore, history_url: str, tmp_path: Path
) -> None:
    """A copy of an hour ago lacks payments that were acknowledged."""
    if history_url.startswith("sqlite"):
        with sqlite3.connect(path_of(history_url)) as link, sqlite3.connect(tmp_path / "copy.db") as copy:
            link.backup(copy)
        answer_of(scoring_service.score([payment(9, "after")])[0])
        for path in files(history_url):
            path.unlink(missing_ok=True)
        shutil.move(tmp_path / "copy.db", path_of(history_url))
    else:
        client(history_url).decr(GENERATION)
    assert [rule_of(scoring_service, payment(10 + at, f"q{at}")) for at in range(3)] == ["history_lost"] * 3
    with pytest.raises(HistoryLost, match="earlier state"):
        store.read([(PAYMENTS, "p0")])
    with pytest.raises(HistoryLost, match="earlier state"):
        open_history(history_url).close()  # those who have not seen how far it was are told
    adopted(history_url)
    assert rule_of(scoring_service, payment(0, "p0")) == "scored"
    assert rule_of(scoring_service, payment(10, "q")) == "scored"


def test_a_whole_copy_is_the_same_store(case: Case, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with open_history(url) as store:
        scoring_service = ScoringService(case.scorer(), store)
        answer_of(scoring_service.score([payment(0, "a")])[0])
        with sqlite3.connect(tmp_path / "x.db") as link, sqlite3.connect(tmp_path / "copy.db") as copy:
            link.backup(copy)
        for path in files(url)[1:]:
            path.unlink(missing_ok=True)
        shutil.move(tmp_path / "copy.db", tmp_path / "x.db")
        assert rule_of(scoring_service, payment(1, "b")) == "scored", "opened again: it lacks nothing"
    with open_history(url, new="refuse") as store:
        assert {place[1] for place, _ in store.scan(PAYMENTS)} == {"a", "b"}


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_a_file_removed_while_it_is_written_to(
    case: Case, tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went to a file that is no longer there is not acknowledged."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    written = sqlite_rows.written

    left = [f"{path_of(url)}{end}"]

    def removed(*arguments: Any) -> bool:
        if left:
            Path(left.pop()).unlink()
        return written(*arguments)

    with open_history(url) as store:
        scoring_service = ScoringService(case.scorer(), store)
        answer_of(scoring_service.score([payment(0, "a")])[0])
        with monkeypatch.context() as patched:
            patched.setattr(sqlite_rows, "written", removed)
            assert rule_of(scoring_service, payment(1, "b")) == ("scored" if end else "history_lost")
        assert rule_of(scoring_service, payment(2, "c")) == ("scored" if end else "history_lost")
        if not end:
            return
    with open_history(url, new="refuse") as store:
        assert {"a", "b", "c"} == {place[1] for place, _ in store.scan(PAYMENTS)}


def test_blocks_and_records_that_were_dropped(scoring_service: ScoringService, keys: Any, history_url: str) -> None:
    assert keys.delete("{tsa}:card:c1")
    assert rule_of(scoring_service, payment(10, "q")) == "history_lost"
    found = scoring_service.score([payment(11, "new", card="c2", shop="s2"), payment(12, "old", card="c1", shop="s2")])
    assert [isinstance(one, RuleViolation) for one in found] == [True, True], "one attempt for both"
    assert rule_of(scoring_service, payment(11, "new", card="c2", shop="s2")) == "scored", "other keys are"
    adopted(history_url)
    assert rule_of(scoring_service, payment(13, "q")) == "scored"

    assert keys.delete("{tsa}::q")
    assert rule_of(scoring_service, payment(13, "q")) == "history_lost", (
        "else it would be scored with itself in its past"
    )
    assert rule_of(scoring_service, payment(14, "r")) == "scored"

    assert keys.delete(KEY_SET)
    assert rule_of(scoring_service, payment(14, "r")) == "scored", "nothing of it is missing"
    assert rule_of(scoring_service, payment(15, "s")) == "history_lost"
    assert rule_of(scoring_service, payment(16, "t", card="never seen")) == "history_lost"
    adopted(history_url)
    assert rule_of(scoring_service, payment(16, "t", card="never seen")) == "scored"
    assert keys.smembers(KEY_SET) == {b"", *(key for key in keys.keys("{tsa}:*") if not key.startswith(b"{tsa}:.:"))}

    keys.delete(IDENTITY)
    assert rule_of(scoring_service, payment(17, "u")) == "history_lost"
    with pytest.raises(HistoryLost, match="has no identity"):
        open_history(history_url)


def test_a_payment_whose_record_alone_was_evicted(scoring_service: ScoringService, keys: Any) -> None:
    """It is not taken for a payment that was never there: by an outcome, or where no history has it."""
    assert keys.delete("{tsa}::p7")
    with pytest.raises(HistoryLost) as lost:
        scoring_service.record_outcome("p7", True, START + 100)
    assert lost.value.reason == "evicted"
    assert not scoring_service.record_outcome("never seen", True, START + 100)
    generation, names = keys.get(GENERATION), keys.keys("*")
    assert rule_of(scoring_service, payment(10, "p7", card="c2", shop="s2")) == "history_lost"
    assert (keys.get(GENERATION), sorted(keys.keys("*"))) == (generation, sorted(names)), "nothing is written"
    assert rule_of(scoring_service, payment(10, "q", card="c2", shop="s2")) == "scored"


def test_what_was_let_go_of_is_not_missed(scoring_service: ScoringService, store: HistoryStore) -> None:
    assert erase(store, ("card", "c1")).payments == 8
    assert rule_of(scoring_service, payment(10, "p0")) == "scored"


def test_what_another_process_has_seen(
    case: Case, scoring_service: ScoringService, store: HistoryStore, history_url: str
) -> None:
    """A worker that is started again knows what the server has met, and makes no new store."""
    seen = store.seen
    emptied(history_url)
    with open_history(history_url, seen=seen) as again:
        begun = ScoringService(case.scorer(), again, may_wait=True)
        assert rule_of(begun, payment(10, "q")) == "history_lost"
        adopted(history_url)
        assert rule_of(begun, payment(10, "q")) == "scored"
    with open_history(history_url, seen=seen) as again:
        assert stored_market(again).name == "shops"
    emptied(history_url)
    with open_history(history_url, seen=seen) as again, pytest.raises(HistoryLost):
        again.read([(PAYMENTS, "p0")])
    adopted(history_url)
    with open_history(history_url, seen=seen) as again:
        assert again.read([(PAYMENTS, "p0")]) == {}
        assert again.turns == 1


def test_new_stores(history_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HistoryError, match="new store with 0 payments"):
        open_history(history_url, new="refuse")
    assert not history_url.startswith("sqlite") or not path_of(history_url).exists()
    assert not caplog.messages
    open_history(history_url).close()
    assert sum("new store, 0 payments" in text for text in caplog.messages) == 1
    open_history(history_url, new="refuse").close()
    open_history(history_url).close()
    assert sum("new store, 0 payments" in text for text in caplog.messages) == 1


def test_a_redis_that_may_drop_keys(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not RedisServer.installed():
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        with pytest.raises(ConfigError, match=r"maxmemory-policy allkeys-lru.*--allow-eviction"):
            open_history(server.url)
        with open_history(server.url, allow_eviction=True) as store:
            assert "allkeys-lru" in caplog.text
            store.check()
        server.client().config_set("maxmemory-policy", "noeviction")
        with open_history(server.url) as store:
            scoring_service = ScoringService(case.scorer(), store)
            answer_of(scoring_service.score([payment(0, "a")])[0])
            server.client().config_set("maxmemory-policy", "volatile-lru")
            with pytest.raises(HistoryUnavailable, match="volatile-lru") as refused:
                store.check()
            assert refused.value.reason == "evicting"
            assert rule_of(scoring_service, payment(1, "b")) == "history_unavailable"
            server.client().config_set("maxmemory-policy", "noeviction")
            assert rule_of(scoring_service, payment(1, "b")) == "scored"


def test_a_server_whose_store_is_lost(tmp_path: Path) -> None:
    """503 with the reason, in the metrics as well, until the store is adopted; one line in the log."""
    bundle, url = made_bundle(tmp_path / "bundle"), f"sqlite:///{tmp_path / 'h.db'}"
    with endpoint(bundle, history=url) as client:
        assert client.post("/v1/score", json=shop_payment("a")).status_code == 200
        emptied(url)
        for id_ in ("b", "c"):
            refused = client.post("/v1/score", json=shop_payment(id_))
            assert (refused.status_code, refused.json()["rule"]) == (503, "history_lost")
            assert refused.json()["value"] == "it was emptied or replaced"
        outcome = client.post("/v1/outcome", json={"id": "a", "fraud": True})
        assert (outcome.status_code, outcome.json()["rule"]) == (503, "history_lost")
        figures = client.get("/metrics").text
        assert 'tsa_history_failures_total{reason="lost"} 3.0' in figures
        assert 'tsa_refusals_total{rule="history_lost"} 3.0' in figures
        adopted(url)
        assert client.post("/v1/score", json=shop_payment("b")).status_code == 200
