"""Scores by day: those of `Scorer.score` to the bit, complete or not there, continued after an interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from support.days import Days, days_case, files_of
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError, StoreError
from tsa.files.writing import sha256_of
from tsa.inference import score_days
from tsa.inference.score_days import MARKER, Day, DayScores, DayTask, ScoreDays, local_days, plan_days, score_by_day
from tsa.inference.scorer import Scorer


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return days_case(tmp_path_factory.mktemp("days"))


def read(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])


def work_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.scores.tmp")


def test_the_days_are_those_of_all_payments_together(
    case: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = score_by_day(case.scorer, case.store, tmp_path / "out", settings={})
    expected = case.scorer.score(case.log)
    assert read(tmp_path / "out").equals(expected)
    assert made.payments == len(expected) == case.store.scored_before(len(case.store))
    assert 0 < made.payments < len(case.store), "some events are not scored"
    monkeypatch.setattr(score_days, "PART_ROWS", 512)
    score_by_day(case.scorer, case.log, tmp_path / "parts", settings={})
    assert read(tmp_path / "parts").equals(expected)
    summary = json.loads((tmp_path / "out" / MARKER).read_text())
    assert {name: entry["sha256"] for name, entry in summary["files"].items()} == {
        path.name: sha256_of(path) for path in (tmp_path / "out").glob("*.parquet")
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "out").iterdir())
    assert not work_of(tmp_path / "out").exists()


def test_a_range_has_the_payments_of_the_range(case: Days, tmp_path: Path) -> None:
    window = {"start": "2018-05-09T06:00:00", "end": "2018-05-12"}
    score_by_day(case.scorer, case.store, tmp_path / "out", settings={}, **window)
    assert read(tmp_path / "out").equals(case.scorer.score(case.log, **window))
    names = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert names == ["2018-05-09.parquet", "2018-05-11.parquet"], "a day without payments has no file"
    for name in names:
        times = read_times(case, pl.read_parquet(tmp_path / "out" / name)["id"])
        assert {np.datetime64(int(time), "s").astype("datetime64[D]").item().isoformat() for time in times} == {
            name[:10]
        }
    none = score_by_day(case.scorer, case.store, tmp_path / "none", settings={}, start="2030-01-01")
    assert (none.payments, none.days) == (0, 0)


def read_times(case: Days, ids: pl.Series) -> list[float]:
    return case.table.filter(pl.col("id").is_in(ids.implode()))["time"].to_list()


def test_a_run_that_ends_early_leaves_nothing_and_is_continued(case: Days, tmp_path: Path) -> None:
    score_by_day(case.scorer, case.store, tmp_path / "once", settings={})
    out, scored = tmp_path / "out", list[str]()

    def failing(after: int) -> Callable[[EventStore], ScoreDays]:
        def score(task: DayTask, days: Sequence[Day], folder: Path) -> Iterator[tuple[Day, DayScores]]:
            for at, found in enumerate(local_days(case.scorer, case.store)(task, days, folder)):
                if at == after:
                    raise KeyboardInterrupt
                scored.append(found[0].name)
                yield found

        return lambda store: score

    for after in (3, 2):
        with pytest.raises(KeyboardInterrupt):
            score_by_day(case.scorer, case.store, out, settings={}, score=failing(after))
        assert not out.exists()
    (work_of(out) / f"{scored[1]}.parquet").unlink()  # as after a kill while the folder was made
    score_by_day(case.scorer, case.store, out, settings={}, score=failing(99))
    assert scored == [*scored[:5], scored[1], *scored[6:]]
    assert sorted(set(scored)) == [day.name for day in plan_days(case.store, (0, len(case.store)))]
    assert files_of(out) == files_of(tmp_path / "once")
    with pytest.raises(KeyboardInterrupt):
        score_by_day(case.scorer, case.store, out, settings={"engine": "other"}, score=failing(1))
    assert files_of(out) == files_of(tmp_path / "once"), (
        "the scores that are there remain until the new ones are complete"
    )
    scored.clear()
    score_by_day(case.scorer, case.store, out, settings={"engine": "third"}, score=failing(99))
    assert len(scored) == len(list(out.glob("*.parquet"))), "days of other settings are not used"


def test_payments_without_a_score(case: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Scorer.score_rows

    def some(self: Scorer, store: EventStore, rows: np.ndarray[Any, Any], **settings: Any) -> np.ndarray[Any, Any]:
        return np.where(np.isin(rows, [700, 701]), np.float32("nan"), real(self, store, rows, **settings))

    monkeypatch.setattr(Scorer, "score_rows", some)
    with pytest.raises(DataError, match="scores must be finite"):
        score_by_day(case.scorer, case.log, tmp_path / "out", settings={})
    assert not (tmp_path / "out").exists()
    lost = case.store.ids_of(np.intersect1d([700, 701], case.store.scored_rows()))
    quarantine = tmp_path / "quarantine.parquet"
    made = score_by_day(case.scorer, case.log, tmp_path / "out", settings={}, quarantine=quarantine)
    assert made.unscored == set(lost)
    assert read(tmp_path / "out").equals(case.scorer.score(case.log, quarantine=tmp_path / "other.parquet"))
    assert set(pl.read_parquet(quarantine)["id"]) == set(lost)
    summary = json.loads((tmp_path / "out" / MARKER).read_text())
    assert sum(entry["unscored"] for entry in summary["files"].values()) == len(lost)


def test_stores_of_another_encoder_and_other_folders_are_refused(case: Days, tmp_path: Path) -> None:
    case.table.with_columns(amount=pl.col("amount") * 2).write_parquet(tmp_path / "other.parquet")
    other = prepare(case.scorer.bundle.market, tmp_path / "other.parquet", tmp_path / "other")
    with pytest.raises(StoreError, match="must have the encoder of the bundle"):
        score_by_day(case.scorer, other, tmp_path / "out", settings={})
    with pytest.raises(ConfigError, match="it is for a log, not for a store"):
        score_by_day(case.scorer, case.store, tmp_path / "out", settings={}, quarantine=tmp_path / "q.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="must be empty or contain scores by day"):
        score_by_day(case.scorer, case.store, tmp_path / "out", settings={})
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "mine.txt"]


def test_two_processes_do_not_write_one_folder(case: Days, tmp_path: Path) -> None:
    def meanwhile(store: EventStore) -> ScoreDays:
        with pytest.raises(ConfigError, match="another one does"):
            score_by_day(case.scorer, case.store, tmp_path / "out", settings={})
        return local_days(case.scorer, store)

    def score(task: DayTask, days: Sequence[Day], folder: Path) -> Iterator[tuple[Day, DayScores]]:
        return meanwhile(case.store)(task, days, folder)

    score_by_day(case.scorer, case.store, tmp_path / "out", settings={}, score=lambda store: score)


def test_the_command(case: Days, tmp_path: Path, tsa: Callable[..., Any]) -> None:
    bundle, store = case.folder / "bundle", case.store.path
    for source, out in ((store, "days"), (case.log, "days-of-log"), (store, "scores.parquet")):
        outcome = tsa("score", bundle, source, "--out", tmp_path / out)
        assert outcome.code == 0, outcome.err
    expected = case.scorer.score(case.log)
    assert read(tmp_path / "days").equals(expected)
    assert read(tmp_path / "days-of-log").equals(expected)
    assert pl.read_parquet(tmp_path / "scores.parquet").equals(expected)
    shutil.copytree(store, tmp_path / "copy")
    for words in (
        ("--out", tmp_path / "copy"),
        ("--out", tmp_path / "x.parquet", "--executor", "ray"),
        ("--out", tmp_path / "x", "--ray-address", "auto"),
    ):
        assert tsa("score", bundle, tmp_path / "copy", *words).code == 2
