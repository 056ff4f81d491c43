"""Recorded payments scored again: the same bundle says the same, another one what it says of the same log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from serving.decisions.conftest import Logged, answer_all
from support.history_case import Case, assert_same, frame, random_rows
from tsa.config.market import Market
from tsa.errors import ConfigError
from tsa.inference.scorer import Scorer
from tsa.serving.decisions.entries import DECISIONS
from tsa.serving.decisions.parquet_files import read_table
from tsa.serving.decisions.read_decisions import answered, entries_of
from tsa.serving.decisions.replay import replay


def test_the_same_bundle_says_the_same(logged: Logged) -> None:
    compared, result = replay(logged.folder, logged.case.scorer())
    assert result["payments"] == len(logged.rows)
    assert result["largest_difference"] < 1e-6
    assert result["psi"] < 0.01
    assert 100 < result["outcomes"] < 300
    assert compared["raw_score"].to_list() == pytest.approx(list(logged.scores.values()))


def test_another_bundle_says_what_it_says_of_the_log(logged: Logged) -> None:
    """Shorter histories; read offline from the log, with the outcomes."""
    market = logged.case.bundle.market
    short = Market.from_dict({**market.to_dict(), "label": {**market.label.model_dump(), "as_feature": True}})
    other = Scorer(replace(logged.case.bundle, market=short, calibration=None))
    compared, _ = replay(logged.folder, other)
    offline = other.score(frame(logged.rows))
    expected = dict(zip(offline["id"].to_list(), offline["raw_score"].to_list(), strict=True))
    assert_same(dict(zip(compared["id"].to_list(), compared["other_raw_score"].to_list(), strict=True)), expected)


def test_earlier_logs_are_histories(logged: Logged, tmp_path: Path) -> None:
    half = len(logged.rows) // 2
    frame(logged.rows).write_parquet(tmp_path / "all.parquet")
    middle = read_table(logged.folder, DECISIONS)["at"][half].timestamp()
    compared, result = replay(logged.folder, logged.case.scorer(), logs=tmp_path / "all.parquet", since=middle)
    assert result["payments"] == len(logged.rows) - half
    assert result["largest_difference"] < 1e-6
    assert len(compared) == result["payments"]


def test_another_market_or_a_feature_that_was_not_recorded(logged: Logged) -> None:
    bundle = logged.case.bundle
    named = Market.from_dict({**bundle.market.to_dict(), "name": "elsewhere"})
    with pytest.raises(ConfigError, match="must be of market elsewhere"):
        replay(logged.folder, Scorer(replace(bundle, market=named)))
    features = {**bundle.market.features.model_dump(exclude_none=True), "engineered": [{"name": "weight"}]}
    wider = bundle.market.model_copy(update={"features": type(bundle.market.features).model_validate(features)})
    with pytest.raises(ConfigError, match="300 without 'weight'"):
        replay(logged.folder, Scorer(replace(bundle, market=wider)))


def test_no_secret_is_in_the_log(logged: Logged) -> None:
    data = b"".join(path.read_bytes() for path in logged.folder.rglob("*") if path.is_file())
    table = read_table(logged.folder, DECISIONS)
    text = table.write_json()
    for row in logged.rows:
        for name in ("id", "card"):
            assert row[name] is None or f'"{row[name]}"' not in text
    assert b"p000001" not in data
    assert {row["history"] for keys in table["keys"].to_list() for row in keys} == {"card", "shop"}


def test_all_entries_of_a_payment(logged: Logged) -> None:
    answers = answered(logged.folder)
    assert len(answers) == 300
    known = answers.filter(pl.col("fraud").is_not_null()).row(0, named=True)
    first, second = entries_of(logged.folder, known["id"])
    assert (first["entry"], second["entry"]) == ("decisions", "outcomes")
    assert first["values"]["shop"] is None or first["values"]["shop"].startswith("s")
    assert second["by"] == "a test"
    assert list(entries_of(logged.folder, "nobody")) == []


def test_derived_features_and_roles_are_replayed(tmp_path: Path, case: Case) -> None:
    market = case.bundle.market.to_dict()
    event = {**market["event"], "asks": {"column": "kind", "values": ["b"]}}
    bundle = replace(case.bundle, market=Market.from_dict({**market, "event": event}))
    bundle.save(tmp_path / "bundle")
    own = Case(tmp_path, case.rows, bundle)
    scores = answer_all(own, random_rows(200, seed=3, cards=8, shops=3), tmp_path, f"sqlite:///{tmp_path}/h.db")
    compared, result = replay(tmp_path / "log", own.scorer())
    assert result["largest_difference"] < 1e-6
    assert len(compared) == len(scores)
