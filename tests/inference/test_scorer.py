"""Scores of a log: the same as the evaluation's, whatever the form of the log, the window, or the files it comes in."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from tsa.calibration.calibration import Calibration
from tsa.data.log.quarantine import Quarantine
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.inference.score_files import write_scores
from tsa.inference.score_parts import score_events
from tsa.inference.scorer import Scorer
from tsa.model import Batch
from tsa.model.network_and_trees import ALONE, raw_scores


@pytest.fixture(scope="module")
def scorer(demo_run: Path) -> Scorer:
    """Without calibration: what calibration adds has tests of its own."""
    return Scorer(replace(Scorer.load(demo_run / "bundle").bundle, calibration=None))


@pytest.fixture(scope="module")
def log(demo_log: Path) -> pl.DataFrame:
    """The first two thousand payments: enough for several batches."""
    return pl.read_parquet(demo_log).sort("paid_at", "payment_id").head(2000)


@pytest.fixture(scope="module")
def scores(scorer: Scorer, log: pl.DataFrame) -> pl.DataFrame:
    return scorer.score(log)


def test_one_score_per_payment_in_time_order(scores: pl.DataFrame, log: pl.DataFrame) -> None:
    assert scores.columns == ["id", "raw_score"]
    assert scores["id"].to_list() == log["payment_id"].to_list()
    assert scores["raw_score"].dtype == pl.Float32
    assert scores["raw_score"].is_between(0, 1).all()
    assert scores["raw_score"].n_unique() > 1000


def test_scores_are_those_of_the_evaluation(scorer: Scorer, demo_run: Path, demo_log: Path) -> None:
    evaluated = pl.read_parquet(demo_run / "scores.parquet")
    both = evaluated.join(scorer.score(demo_log), on="id", how="left", suffix="_alone")
    assert len(both) == len(evaluated) > 500
    difference = (both["raw_score"].cast(pl.Float64) - both["raw_score_alone"]).abs().max()
    assert difference is not None
    assert difference <= 1e-6


def test_a_file_gives_what_a_table_gives(
    scorer: Scorer, log: pl.DataFrame, scores: pl.DataFrame, tmp_path: Path
) -> None:
    log.write_parquet(tmp_path / "log.parquet")
    log.head(700).write_parquet(tmp_path / "part1.parquet")
    log.tail(1300).write_parquet(tmp_path / "part2.parquet")
    log.write_csv(tmp_path / "log.csv")
    log.write_ndjson(tmp_path / "log.jsonl")
    assert scorer.score(tmp_path / "log.parquet").equals(scores)
    assert scorer.score(str(tmp_path / "log.parquet")).equals(scores)
    assert scorer.score([tmp_path / "part2.parquet", tmp_path / "part1.parquet"]).equals(scores)
    assert scorer.score(str(tmp_path / "part*.parquet")).equals(scores)
    assert scorer.score(tmp_path / "log.csv").equals(scores)
    assert scorer.score(tmp_path / "log.jsonl").equals(scores)


def test_a_small_table_is_scored_in_memory(
    scorer: Scorer, log: pl.DataFrame, scores: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To the bit as by way of files, window, quarantine and payments without a number included."""
    bad = log.with_columns(
        pl.when(pl.int_range(pl.len()) == 9).then(float("inf")).otherwise("amount").alias("amount"),
    )

    def all_ways(name: str) -> list[pl.DataFrame]:
        aside = Quarantine(tmp_path / f"{name}.parquet", limit=1)
        window = {"start": log["paid_at"][900].isoformat(), "end": log["paid_at"][1600].isoformat()}
        found = [scorer.score(log), scorer.score(log, **window), scorer.score(bad, quarantine=aside)]
        return [*found, pl.concat(scorer.parts(log, part_rows=512)), pl.read_parquet(aside.path)]

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        in_memory = all_ways("memory")
    monkeypatch.setattr("tsa.data.store.prepare.MAX_TABLE_BYTES", -1)
    for one, other in zip(in_memory, all_ways("files"), strict=True):
        assert one.schema == other.schema
        assert one.equals(other)
    assert in_memory[0].equals(scores)


def test_the_order_of_rows_does_not_matter(scorer: Scorer, log: pl.DataFrame, scores: pl.DataFrame) -> None:
    assert scorer.score(log.sample(fraction=1.0, shuffle=True, seed=1)).equals(scores)


@pytest.mark.parametrize("form", ["text", "time", "zoned"])
def test_a_window_cuts_scores_and_not_histories(
    scorer: Scorer, log: pl.DataFrame, scores: pl.DataFrame, form: str
) -> None:
    start, end = log["paid_at"][800], log["paid_at"][1500]
    inside = ((log["paid_at"] >= start) & (log["paid_at"] < end)).to_numpy()
    naive = [moment.replace(tzinfo=None) for moment in (start, end)]
    spelled = {
        "text": [f"{moment.isoformat()}Z" for moment in naive],
        "time": naive,
        "zoned": [moment.replace(tzinfo=UTC) for moment in naive],
    }[form]
    found = scorer.score(log, start=spelled[0], end=spelled[1])
    assert found["id"].to_list() == scores.filter(inside)["id"].to_list()
    np.testing.assert_allclose(found["raw_score"], scores.filter(inside)["raw_score"], rtol=0, atol=1e-6)
    assert scorer.score(log, end=spelled[1]).equals(scores.filter((log["paid_at"] < end).to_numpy()))
    assert len(scorer.score(log, start=spelled[0])) == (log["paid_at"] >= start).sum()


def test_an_empty_window(scorer: Scorer, log: pl.DataFrame, scores: pl.DataFrame) -> None:
    found = scorer.score(log, start="2031-01-01")
    assert found.is_empty()
    assert found.schema == scores.schema
    assert scorer.score(log, start="2025-01-05", end="2025-01-05").is_empty()


def test_a_window_that_is_none(scorer: Scorer, log: pl.DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"start \(--from\) must be a time like .* \(got 'yesterday'\)"):
        scorer.score(log, start="yesterday")
    with pytest.raises(ConfigError, match=r"start must not be after end [(]got start=2025-02-02, end=2025-02-01"):
        scorer.score(log, start="2025-02-02", end=datetime(2025, 2, 1))


def test_a_log_without_outcomes(scorer: Scorer, log: pl.DataFrame) -> None:
    """As one is that is to be scored; it equals one whose outcomes are all not known, and outcomes do matter."""
    alone = scorer.score(log.drop("is_fraud"))
    assert alone.equals(scorer.score(log.with_columns(is_fraud=pl.lit(None, pl.Int8))))
    assert alone.equals(scorer.score(log.with_columns(is_fraud=pl.lit(-1))))
    assert not alone.equals(scorer.score(log.with_columns(is_fraud=pl.lit(1))))


def test_a_feature_must_be_there_and_other_columns_may(scorer: Scorer, log: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="device: missing"):
        scorer.score(log.drop("device", "is_fraud"))
    assert len(scorer.score(log.with_columns(irrelevant=pl.lit("x")))) == len(log)


def test_bad_rows_are_refused_or_set_aside(
    scorer: Scorer, log: pl.DataFrame, scores: pl.DataFrame, tmp_path: Path
) -> None:
    last, bad = len(log) - 3, ("infinite", "duplicate")
    spoiled = log.with_row_index("row").with_columns(
        amount=pl.when(pl.col("row") >= last).then(float("inf")).otherwise(pl.col("amount"))
    )
    with pytest.raises(DataError, match="3 of 2,000 rows break a rule"):
        scorer.score(spoiled)
    found = scorer.score(spoiled, quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    assert found.equals(scores.head(last))
    aside = pl.read_parquet(tmp_path / "bad.parquet")
    assert len(aside) == 3
    assert aside["__reason"].str.contains(bad[0]).all()


def test_a_log_without_rows(scorer: Scorer, log: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="at least one row"):
        scorer.score(log.clear())
    with pytest.raises(DataError, match="no such file or folder"):
        scorer.score("nowhere.parquet")


@pytest.mark.parametrize("batch_size", [4, 100, 512])
def test_a_score_does_not_depend_on_its_batch(scorer: Scorer, demo_store: EventStore, batch_size: int) -> None:
    rows = np.arange(100, 400)
    expected = score_events(scorer.bundle.network, demo_store, rows)
    for some in (rows, rows[::-1], rows[17:], rows[[3]], np.repeat(rows[:3], 50)):
        found = score_events(scorer.bundle.network, demo_store, some, batch_size=batch_size)
        np.testing.assert_allclose(found, expected[some - 100], rtol=0, atol=1e-6)
    assert len(score_events(scorer.bundle.network, demo_store, rows[:0])) == 0


@pytest.fixture(scope="module")
def calibrated(scorer: Scorer, log: pl.DataFrame, scores: pl.DataFrame) -> Scorer:
    labels = log["is_fraud"].fill_null(-1).to_numpy()
    return Scorer(replace(scorer.bundle, calibration=Calibration.fit(scores=scores["raw_score"], labels=labels)))


def test_a_calibrated_bundle_gives_three_scores(calibrated: Scorer, log: pl.DataFrame, scores: pl.DataFrame) -> None:
    found = calibrated.score(log)
    assert found.schema == {**scores.schema, "percentile": pl.Float64, "probability": pl.Float64}
    assert found.select("id", "raw_score").equals(scores), "raw scores are what they were"
    calibration = calibrated.bundle.calibration
    assert calibration is not None
    for name, values in calibration.columns(scores["raw_score"].to_numpy()).items():
        np.testing.assert_array_equal(found[name], values)
        assert found.sort("raw_score")[name].is_sorted()
    known = found.join(log.select(pl.col("payment_id").alias("id"), "is_fraud"), on="id").drop_nulls("is_fraud")
    assert known["probability"].sum() == pytest.approx(known["is_fraud"].sum(), rel=1e-2)
    assert found["percentile"].mean() == pytest.approx(0.5, abs=0.01)
    assert calibrated.score(log, start="2031-01-01").schema == found.schema


def test_columns_are_as_far_as_the_calibration_goes(calibrated: Scorer, log: pl.DataFrame) -> None:
    assert calibrated.bundle.calibration is not None
    half = replace(calibrated.bundle, calibration=replace(calibrated.bundle.calibration, probability=None))
    assert Scorer(half).score(log.head(50)).columns == ["id", "raw_score", "percentile"]


def test_no_score_at_all_where_the_network_gives_no_number(scorer: Scorer, log: pl.DataFrame) -> None:
    broken = copy.deepcopy(scorer.bundle.network)
    with torch.no_grad():
        next(broken.classifier.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match=r"scores must be finite [(]got 20 of 20 not finite"):
        Scorer(replace(scorer.bundle, network=broken)).score(log.head(20))


def test_a_payment_without_a_score_does_not_cost_the_others(
    scorer: Scorer, log: pl.DataFrame, scores: pl.DataFrame, tmp_path: Path
) -> None:
    """It is set aside with its reason, beside the rows that break a rule; it stays in the histories of the others."""
    scorer = Scorer(replace(scorer.bundle, joining=ALONE["network"]))
    scores = scorer.score(log).select("id", "raw_score")
    gone = scores["id"].gather([3, 700, 1500]).to_list()

    class Gaps:
        """An engine that has no number for some of the scores that the network gives."""

        name = "gaps"
        rows = scorer.engine.rows

        def __call__(self, batch: Batch) -> NDArray[np.float32]:
            found = scorer.engine(batch)
            return np.where(np.isin(raw_scores(found), lost), np.float32("nan"), found)

    lost = scores.filter(pl.col("id").is_in(gone))["raw_score"].to_numpy()
    gaps = copy.copy(scorer)
    gaps.engine = Gaps()
    bad = log.with_columns(amount=pl.when(pl.int_range(pl.len()) == 1990).then(float("inf")).otherwise("amount"))
    path = tmp_path / "quarantine.parquet"
    found = gaps.score(bad, quarantine=path)
    kept = scores.filter(~pl.col("id").is_in([*gone, bad["payment_id"][1990]]))
    assert found["id"].to_list() == kept["id"].to_list()
    np.testing.assert_allclose(found["raw_score"][:1900], kept["raw_score"][:1900], atol=1e-6)
    aside = pl.read_parquet(path)
    assert dict(aside.select("payment_id", "__reason").iter_rows()) == {
        **dict.fromkeys(gone, "no_score:payment_id"),
        bad["payment_id"][1990]: "infinite:amount",
    }
    with pytest.raises(DataError, match="give a quarantine file to exclude these payments"):
        gaps.score(log)
    with pytest.raises(DataError, match=r"no_score:payment_id: must get a number as score: 3 rows"):
        gaps.score(bad, quarantine=Quarantine(tmp_path / "few.parquet", 0.001))


def test_scores_are_written_whole(scores: pl.DataFrame, tmp_path: Path) -> None:
    for name, read in (("deep/scores.parquet", pl.read_parquet), ("scores.csv", pl.read_csv)):
        write_scores(scores, tmp_path / name)
        back = read(tmp_path / name)
        assert back.columns == ["id", "raw_score"]
        np.testing.assert_array_equal(back["raw_score"].cast(pl.Float32), scores["raw_score"])
        assert back["id"].to_list() == scores["id"].to_list()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "scores.csv"], "nothing is left aside"
