"""Appending to a store: in whatever pieces a log comes, the files are those of one build with the same encoder."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.store.append import append
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError, StoreError

START, HOUR, N = 1_525_651_200, 3600, 120
TABLE: dict[str, Any] = {
    "name": "transfers",
    "event": {
        "id": "id",
        "time": "time",
        "time_unit": "s",
        "amount": "amount",
        "scored": {"column": "kind", "values": ["payment", "question"]},
        "asks": {"column": "kind", "values": ["question"]},
    },
    "label": {
        "column": "fraud",
        "known_at": "known",
        "as_feature": True,
        "decision": {"column": "decision", "values": ["declined"]},
    },
    "history": [
        {"name": "account", "keys": ["sender", "receiver"], "length": 4},
        {"name": "bank", "key": "bank", "length": 3},
    ],
    "features": {
        "calendar": ["hour_of_day"],
        "categorical": [{"name": "kind", "min_count": 1}, {"name": "bank", "min_count": 3}],
        "numerical": [{"name": "amount", "transform": "signed_log1p"}],
    },
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
    "input": {"duplicates": "last"},
}
MARKETS = [TABLE, {**TABLE, "privacy": {"retention_days": 0.5}}]
SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "time": pl.Float64,
    "sender": pl.String,
    "receiver": pl.Int64,
    "bank": pl.String,
    "kind": pl.String,
    "amount": pl.Float64,
    "decision": pl.String,
    "fraud": pl.Int64,
    "known": pl.Float64,
}


def log_of(seed: int, n: int = N, start: int = 0) -> pl.DataFrame:
    """Transfers with ties in time, null keys, events that only ask or are not scored, and declined payments."""
    rng = np.random.default_rng(seed)
    rows = []
    for at, hour in enumerate(np.sort(rng.integers(0, n // 2, n)).tolist(), start):
        fraud = [0, 0, 1, None][int(rng.integers(0, 4))]
        happened = float(START + HOUR * hour)
        rows.append(
            (
                f"p{at}",
                happened,
                str(rng.integers(0, 6)),
                [None, *range(6)][int(rng.integers(0, 7))],
                [None, "a", "b", "c"][int(rng.integers(0, 4))],
                str(rng.choice(["payment", "payment", "login", "question"])),
                float(rng.normal()) if rng.random() < 0.9 else None,
                ["accepted", "declined", None][int(rng.integers(0, 3))],
                fraud,
                happened + HOUR * int(rng.integers(0, 20)) if fraud is not None and rng.random() < 0.9 else None,
            )
        )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def pieces_of(log: pl.DataFrame, cuts: Sequence[int], folder: Path) -> list[Path]:
    """The log in files, cut before these rows, in (time, id) order."""
    tie = pl.col("id").str.slice(1).cast(pl.Int64)
    ordered, paths = log.sort("time", tie), []
    edges = [0, *sorted(cuts), len(log)]
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        if last > first:
            paths.append(folder / f"{number}.parquet")
            ordered.slice(first, last - first).write_parquet(paths[-1])
    return paths


def content(store: Path, *without: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.iterdir()) if path.name not in without}


def assert_same(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    different = [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]
    assert not different, {
        name: ((one / name).read_bytes()[:2000], (other / name).read_bytes()[:2000]) for name in different
    }


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A store of the first 80 events; the files 1.parquet has the rest."""
    paths = pieces_of(log_of(1), [80], tmp_path)
    prepare(Market.from_dict(TABLE), paths[0], tmp_path / "store")
    return tmp_path / "store"


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(60, N - 1), min_size=1, max_size=3, unique=True),
    market=st.sampled_from(MARKETS),
)
def test_pieces_make_the_store_of_one_build(seed: int, cuts: list[int], market: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = pieces_of(log_of(seed), cuts, folder)
        store = prepare(Market.from_dict(market), paths[0], folder / "store")
        for path in paths[1:]:
            assert append(folder / "store", path).is_changed
        given_encoder = {"encoder": store.encoder, "with_splits": True}
        prepare(Market.from_dict(market), paths, folder / "rebuilt", **given_encoder)
        assert_same(folder / "store", folder / "rebuilt")


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(60, N - 1))
def test_with_a_new_encoder_it_is_the_store_of_prepare(seed: int, cut: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = pieces_of(log_of(seed), [cut], folder)
        prepare(Market.from_dict(TABLE), paths[0], folder / "store")
        append(folder / "store", paths[1], refit_encoder=True)
        prepare(Market.from_dict(TABLE), paths, folder / "rebuilt")
        assert_same(folder / "store", folder / "rebuilt")


def test_outcomes_known_later_are_as_in_a_rebuild(first: Path, tmp_path: Path) -> None:
    log = pl.concat(pl.read_parquet(tmp_path / f"{at}.parquet") for at in (0, 1))
    known = log.with_columns(pl.lit(1, pl.Int64).alias("fraud"), (pl.col("time") + 5 * HOUR).alias("known"))
    again = known.gather([3, 10, 40])  # rows of payments that the store has
    news = pl.concat([again, pl.read_parquet(tmp_path / "1.parquet")])
    news.write_parquet(tmp_path / "news.parquet")
    added = append(first, tmp_path / "news.parquet", out=tmp_path / "by_rows")
    assert (added.payments, added.repeated) == (40, 3)
    encoder = EventStore.open(first).encoder
    logs = [tmp_path / "0.parquet", tmp_path / "news.parquet"]
    prepare(Market.from_dict(TABLE), logs, tmp_path / "rebuilt", encoder=encoder, with_splits=True)
    assert_same(tmp_path / "by_rows", tmp_path / "rebuilt")
    again.select("id", "fraud", "known").write_csv(tmp_path / "outcomes.csv")
    by_file = append(first, tmp_path / "1.parquet", outcomes=tmp_path / "outcomes.csv", out=tmp_path / "by_file")
    assert (by_file.payments, by_file.unmatched) == (40, 0)
    assert content(tmp_path / "by_file", "data_report.json", "manifest.json") == content(
        tmp_path / "by_rows", "data_report.json", "manifest.json"
    )
    declined = log["decision"][3] == "declined"
    assert by_file.store.label[3] == (-1 if declined else 1)


def test_the_same_again_changes_nothing(first: Path, tmp_path: Path) -> None:
    append(first, tmp_path / "1.parquet")
    before = content(first), first.stat().st_ino
    added = append(first, [tmp_path / "0.parquet", tmp_path / "1.parquet"])
    assert not added.is_changed
    assert added.repeated == N
    assert (content(first), first.stat().st_ino) == before


def test_a_known_outcome_is_not_forgotten(first: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(tmp_path / "0.parquet")
    log.with_columns(fraud=pl.lit(None, pl.Int64), known=pl.lit(None, pl.Float64)).write_parquet(
        tmp_path / "blank.parquet"
    )
    assert not append(first, tmp_path / "blank.parquet").is_changed


def test_outcomes_of_other_payments_are_counted_or_refused(first: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(tmp_path / "0.parquet").filter(pl.col("decision") == "accepted", pl.col("fraud").is_null())
    known = log.head(1).select("id", fraud=pl.lit(0), known=pl.col("time") + HOUR)
    strange = pl.concat([known, known.with_columns(id=pl.lit("another"))])
    strange.write_parquet(tmp_path / "outcomes.parquet")
    added = append(first, outcomes=tmp_path / "outcomes.parquet")
    assert (added.outcomes, added.unmatched, added.payments) == (1, 1, 0)
    report = json.loads((first / "data_report.json").read_text())
    assert report["outcome_files"]["unmatched"] == 1
    assert sum(report["labels"].values()) == report["rows_kept"] == 80
    strange.tail(1).write_parquet(tmp_path / "outcomes.parquet")
    with pytest.raises(DataError, match="none of 1 is"):
        append(first, outcomes=tmp_path / "outcomes.parquet")


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"fraud": 3}, "bad_label:fraud"),
        ({"known": 12.0}, "absurd_time:known"),
        ({"id": None}, "null_id:id"),
        ({"known": float(START - 1)}, "must not be before the payment"),
    ],
)
def test_a_bad_outcome_is_refused(first: Path, tmp_path: Path, values: dict[str, Any], rule: str) -> None:
    row = {"id": "p1", "fraud": 1, "known": float(START + 90 * HOUR), **values}
    schema = {"id": pl.String, "fraud": pl.Int64, "known": pl.Float64}
    pl.DataFrame([row], schema=schema).write_parquet(tmp_path / "outcomes.parquet")
    before = content(first)
    with pytest.raises(DataError, match=rule):
        append(first, outcomes=tmp_path / "outcomes.parquet")
    assert content(first) == before


def test_what_is_not_exact_is_refused_and_says_what_to_rebuild(first: Path, tmp_path: Path) -> None:
    before = content(first)
    later = pl.read_parquet(tmp_path / "1.parquet")

    def refused(log: pl.DataFrame, match: str, error: type[Exception] = DataError, **options: Any) -> None:
        log.write_parquet(tmp_path / "bad.parquet")
        with pytest.raises(error, match=match):
            append(first, tmp_path / "bad.parquet", **options)
        assert content(first) == before

    refused(later.with_columns(time=pl.col("time") - 50 * HOUR), "new payments must come after the last of the store")
    refused(later.drop("bank"), "bank: missing")
    refused(later.with_columns(receiver=pl.col("receiver").cast(pl.String)), "receiver must be Int64 as in the store")
    changed = pl.read_parquet(tmp_path / "0.parquet").with_columns(amount=pl.lit(1.0), sender=pl.lit("x"))
    refused(changed, "payments differ in sender, amount")
    other = Market.from_dict({**TABLE, "history": TABLE["history"][1:]})
    refused(later, "made for another market", StoreError, market=other)
    with pytest.raises(ConfigError, match="needs a log or a file of outcomes"):
        append(first)
    with pytest.raises(ConfigError, match="must not be"):
        append(first, first / "rows.parquet")


def test_ties_in_time_are_ordered_by_id(first: Path, tmp_path: Path) -> None:
    last = pl.read_parquet(first / "rows.parquet").tail(1)
    row = pl.read_parquet(tmp_path / "1.parquet").head(1).with_columns(time=pl.lit(last["__time_seconds"][0]))
    row.with_columns(id=pl.lit("p9999")).write_parquet(tmp_path / "after.parquet")
    assert append(first, tmp_path / "after.parquet").payments == 1
    row.with_columns(id=pl.lit("a")).write_parquet(tmp_path / "before.parquet")
    with pytest.raises(DataError, match="come after the last"):
        append(first, tmp_path / "before.parquet")


def test_another_split_is_taken_over(first: Path, tmp_path: Path) -> None:
    market = Market.from_dict({**TABLE, "split": {"fractions": [0.5, 0.2, 0.2, 0.1]}})
    append(first, tmp_path / "1.parquet", market=market)
    assert EventStore.open(first, market).market == market


def test_ids_made_of_file_names_are_refused(tmp_path: Path) -> None:
    log = log_of(2).drop("id")
    log.write_parquet(tmp_path / "log.parquet")
    prepare(
        Market.from_dict({**TABLE, "event": {**TABLE["event"], "id": "row"}}),
        tmp_path / "log.parquet",
        tmp_path / "store",
    )
    with pytest.raises(StoreError, match="names of all files"):
        append(tmp_path / "store", tmp_path / "log.parquet")


KILLED = """
import os, signal, sys
from pathlib import Path
from tsa.data.store import append as module
from tsa.data.store.append import append
step = sys.argv[3]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if step == "rows":
    module.NewRows.report = die
elif step == "arrays":
    real = module.manifest_sha256
    calls = []
    module.manifest_sha256 = lambda path: (calls.append(path), die() if len(calls) > 1 else None, real(path))[-1]
append(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("step", ["rows", "arrays"])
def test_a_killed_append_leaves_the_store(first: Path, tmp_path: Path, step: str) -> None:
    before = content(first)
    command = [sys.executable, "-c", KILLED, str(first), str(tmp_path / "1.parquet"), step]
    assert subprocess.run(command, check=False, timeout=100).returncode == -signal.SIGKILL
    assert content(first) == before
    assert append(first, tmp_path / "1.parquet").payments == 40


def test_two_programs_at_once(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tsa.data.store import append as module

    real = module.write_store

    def meanwhile(*given_: Any, **options: Any) -> None:
        monkeypatch.setattr(module, "write_store", real)
        append(first, tmp_path / "1.parquet")
        real(*given_, **options)

    monkeypatch.setattr(module, "write_store", meanwhile)
    with pytest.raises(StoreError, match="changed by another program"):
        append(first, tmp_path / "1.parquet")
    assert len(EventStore.open(first, verify=True)) == N


def test_the_command(first: Path, tmp_path: Path, tsa: Any) -> None:
    ended = tsa("prepare", "--append", first, tmp_path / "1.parquet", "--quiet")
    assert ended.code == 0, ended.err
    assert "40 events are new" in ended.out
    assert "nothing is new" in tsa("prepare", "--append", first, tmp_path / "1.parquet", "--quiet").out
    assert tsa("prepare", tmp_path / "1.parquet", "--out", tmp_path / "x").code == 2
