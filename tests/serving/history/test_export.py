"""What the endpoint has seen, as a log that can be prepared and appended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from support.history_case import MARKET, Case, Row, answer_of, frame, request
from tsa.config.market import Market
from tsa.data.clean_columns import TIME
from tsa.data.store.append import append
from tsa.data.store.prepare import prepare
from tsa.errors import HistoryError
from tsa.serving.history.backfill import backfill
from tsa.serving.history.export import _columns, _time, export_log
from tsa.serving.history.factory import open_history
from tsa.serving.history.metadata import bind_store
from tsa.serving.scoring.scoring_service import ScoringService

FIRST = 1000


def serve(case: Case, url: str, rows: list[Row]) -> None:
    """Score payments and report their outcomes."""
    with open_history(url) as store:
        service = ScoringService(case.scorer(), store)
        for first in range(0, len(rows), 100):
            for one in service.score([request(row) for row in rows[first : first + 100]]):
                answer_of(one)
        for row in rows:
            if row["fraud"] is not None:
                service.record_outcome(row["id"], bool(row["fraud"]), row["reported"])


def test_what_was_served_is_prepared_and_appended_as_the_log_itself(
    case: Case, history_url: str, tmp_path: Path
) -> None:
    market, later = case.bundle.market, case.rows[FIRST:]
    frame(case.rows[:FIRST]).write_parquet(tmp_path / "first.parquet")
    with open_history(history_url) as store:
        backfill(store, case.bundle, [tmp_path / "first.parquet"])
    serve(case, history_url, later)
    with open_history(history_url) as store:
        made = export_log(store, tmp_path / "seen.parquet")
        loaded_too = export_log(store, tmp_path / "all.parquet", with_loaded=True)
        from_then = export_log(store, tmp_path / "late.parquet", start_seconds=later[100]["time"])
    assert made.payments == len(later)
    assert made.with_outcome == sum(row["fraud"] is not None for row in later)
    assert loaded_too.payments > made.payments > from_then.payments >= len(later) - 100
    frame(later).write_parquet(tmp_path / "later.parquet")
    for name, log in (("seen", "seen.parquet"), ("itself", "later.parquet")):
        prepare(market, tmp_path / log, tmp_path / name, encoder=case.bundle.encoder)
    rows = [pl.read_parquet(tmp_path / name / "rows.parquet") for name in ("seen", "itself")]
    assert rows[0].equals(rows[1])
    prepare(market, tmp_path / "first.parquet", tmp_path / "store")
    added = append(tmp_path / "store", tmp_path / "seen.parquet")
    assert (added.payments, added.repeated) == (len(later), 0)


def test_the_command(tsa: Callable[..., Any], case: Case, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    serve(case, url, case.rows[:200])
    ended = tsa("history", "export", "--history", url, "--out", tmp_path / "log.parquet")
    assert ended.code == 0, ended.err
    assert "200 payments" in ended.out
    assert (tmp_path / "log.parquet").stat().st_mode & 0o777 == 0o600
    refused = tsa("history", "export", "--history", url, "--out", tmp_path / "x.parquet", "--from", "2030-01-01")
    assert refused.code == 2
    assert "must have payments to write" in refused.err
    assert not (tmp_path / "x.parquet").exists()


def test_pseudonyms_are_written_only_on_request(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s" * 40)
    market = Market.from_dict({**MARKET, "privacy": {"pseudonymise": ["card"], "secret_env": "SECRET"}})
    with open_history(f"sqlite:///{tmp_path / 'x.db'}") as store:
        bind_store(store, market, case.bundle.encoder, case.bundle.visible_lengths)
        with pytest.raises(HistoryError, match="pseudonyms in place of card"):
            export_log(store, tmp_path / "log.parquet")
        with pytest.raises(HistoryError, match="must have payments to write"):
            export_log(store, tmp_path / "log.parquet", pseudonyms=True)


def test_columns_that_only_a_log_has() -> None:
    features = MARKET["features"]
    ratio = {"name": "ratio", "kind": "ratio", "columns": ["amount", "limit"]}
    derived = {**features, "numerical": [*features["numerical"], "ratio"], "derived": [ratio]}
    market = Market.from_dict({**MARKET, "features": derived})
    with pytest.raises(HistoryError, match="also needs limit"):
        _columns(market, set(market.raw_columns))
    rules = {
        "event": {**MARKET["event"], "scored": "is_payment"},
        "features": {**features, "exclude": [{"column": "test", "values": ["yes"]}]},
    }
    market = Market.from_dict({**MARKET, **rules})
    columns = _columns(market, set(market.raw_columns))
    assert (columns["is_payment"], columns["test"], columns["card"]) == (True, "", None)
    blank = {**MARKET["label"], "fraud": ["yes"], "genuine": [""]}
    assert "" in (Market.from_dict({**MARKET, "label": blank}).label.genuine or ())


@pytest.mark.parametrize(("unit", "kind"), [(None, pl.Datetime), ("s", pl.Float64), ("ms", pl.Int64), ("us", pl.Int64)])
def test_times_are_written_as_the_market_reads_them(unit: str | None, kind: Any) -> None:
    rows = pl.LazyFrame({TIME: [1_525_651_200.125, 1_525_651_200.5]})
    written = rows.select(_time(rows, TIME, unit)).collect().to_series()
    assert isinstance(written.dtype, kind)
