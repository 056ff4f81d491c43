"""The end of the main job: what is measured goes into the bundle, which is written once, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from support.easy_log import TINY, Ended, alone, die, settings
from tsa.bundle import archive
from tsa.bundle import bundle as bundles
from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.evaluation.evaluate import compare_run, evaluate
from tsa.evaluation.trained_run import read_report
from tsa.training import evaluate_and_bundle, finalize, train
from tsa.training.evaluate_and_bundle import measure_trained
from tsa.training.train_model import train_network

Tsa = Callable[..., Any]


def files(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


def without_times(value: Any) -> Any:
    """A tree of plain values without what differs from one run to the next."""
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in ("seconds", "created", "epochs")}
    return [without_times(each) for each in value] if isinstance(value, list) else value


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written and opened, in order."""
    seen: list[str] = []

    def spy(owner: Any, name: str, what: str) -> None:
        original = getattr(owner, name)

        def spied(*arguments: Any, **given: Any) -> Any:
            seen.append(what)
            return original(*arguments, **given)

        monkeypatch.setattr(owner, name, spied)

    spy(bundles, "write_contents", "bundle written")
    spy(archive.Folder, "files", "bundle read")
    spy(EventStore, "open", "store opened")
    return seen


def test_the_whole_job_writes_the_bundle_once(
    tsa: Tsa, demo_log: Path, demo_market: Path, small: tuple[str, ...], tmp_path: Path, counted: list[str]
) -> None:
    """And what it writes is, to the bit, what single commands write one after the other."""
    whole, store, steps = tmp_path / "whole", tmp_path / "store", tmp_path / "steps"
    words = ("--market", demo_market, *small, "--set", "training.epochs=1", demo_log, "--out", whole)
    made = tsa("run", *words)
    assert made.code == 0, made.err
    assert sorted(counted) == ["bundle written", "store opened"]
    log = (whole / "run.log").read_text()
    assert log.count("scoring the validation range") == log.count("scoring the calibration range") == 1

    assert tsa("prepare", "--market", demo_market, demo_log, "--out", store).code == 0
    assert tsa("train", store, "--out", steps, *small, "--set", "training.epochs=1").code == 0
    counted.clear()
    assert tsa("evaluate", steps).code == 0
    assert counted == ["bundle read", "store opened", "bundle written"]
    assert "scoring the validation range" not in (steps / "evaluate.log").read_text(), "training did"
    assert tsa("compare", steps).code == 0
    assert without_times(read_report(whole)) == without_times(read_report(steps))
    one, other = (files(run / "bundle") for run in (whole, steps))
    assert one == other, "no file of a bundle holds a time"
    written = Bundle.open(whole / "bundle").contents()
    assert written == one, "opened and written again it is the same, to the byte"
    for name in ("scores.parquet", "validation_scores.parquet", "calibration_scores.parquet"):
        assert (whole / name).read_bytes() == (steps / name).read_bytes()


def test_the_same_run_twice_gives_the_same_bundle(
    tsa: Tsa, demo_log: Path, demo_market: Path, small: tuple[str, ...], tmp_path: Path
) -> None:
    """To the bit: its sha256 says whether two people have the same model."""
    hashes = []
    for name in ("one", "other"):
        made = tsa("run", "--market", demo_market, *small, demo_log, "--out", tmp_path / name)
        assert made.code == 0, made.err
        hashes.append(Bundle.open(tmp_path / name / "bundle").sha256)
    assert hashes[0] == hashes[1]


def test_the_scores_of_training_are_those_of_the_bundle(
    easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threshold and the drift are the same to the bit where nothing of training's is at hand."""
    train(easy_store, tmp_path / "run", model=TINY, training=settings())
    found = evaluate(tmp_path / "run", replicates=10)
    before = Bundle.open(tmp_path / "run" / "bundle").sha256
    for name in ("validation", "calibration"):
        (tmp_path / "run" / f"{name}_scores.parquet").unlink()
    again = evaluate(tmp_path / "run", replicates=10)
    for report in (found, again):
        report.pop("created")
    assert again == found
    assert Bundle.open(tmp_path / "run" / "bundle").sha256 == before, "it says so already, and stays as it is"


def test_scores_of_other_weights_are_not_used(easy_store: EventStore, tmp_path: Path) -> None:
    train(easy_store, tmp_path / "run", model=TINY, training=settings())
    found = evaluate(tmp_path / "run", replicates=10)["evaluation"]["threshold"]
    path = tmp_path / "run" / "validation_scores.parquet"
    scores = pl.read_parquet(path).with_columns(pl.col("raw_score") * 0.5)
    for metadata in ({"tsa.weights_sha256": "0" * 64}, {}):
        scores.write_parquet(path, metadata=metadata)
        assert evaluate(tmp_path / "run", replicates=10)["evaluation"]["threshold"] == found
    path.write_bytes(b"torn")
    assert evaluate(tmp_path / "run", replicates=10)["evaluation"]["threshold"] == found


def dies_at(place: str, store: str, out: str) -> None:
    owner, name = {
        "evaluation": (evaluate_and_bundle, "report_on"),
        "comparison": (evaluate_and_bundle, "comparison_on"),
    }.get(place, (finalize, place))
    setattr(owner, name, lambda *_, **__: die())
    trained = train_network(store, out, model=TINY, training=settings(), resume=True)
    measure_trained(trained, comparison=True)


def goes_on(store: str, out: str) -> None:
    trained = train_network(store, out, model=TINY, training=settings(), resume=True)
    measure_trained(trained, comparison=True)


def test_killed_before_the_bundle_is_written(easy_store: EventStore, tmp_path: Path) -> None:
    """It continues from the last checkpoint, and ends as one that was not killed."""
    out, unkilled = tmp_path / "run", tmp_path / "unkilled"
    for place in ("evaluation", "comparison"):
        assert alone(dies_at, place, str(easy_store.path), str(out)).code != 0
        assert not (out / "bundle").exists()
        assert not [path for path in out.iterdir() if path.name.startswith(".")], "nothing half written"
        with pytest.raises(ConfigError, match="finish it with the command that trained it and --resume"):
            evaluate(out)
    # the bundle stands, but that the run has finished was not written any more
    assert alone(dies_at, "draw_curves", str(easy_store.path), str(out)).code != 0
    assert Bundle.open(out / "bundle").metrics is not None
    assert alone(goes_on, str(easy_store.path), str(out)) == Ended(0)
    assert alone(goes_on, str(easy_store.path), str(unkilled)) == Ended(0)
    assert without_times(read_report(out)) == without_times(read_report(unkilled))
    assert files(out / "bundle") == files(unkilled / "bundle")
    # a job that is asked for again, once it has finished, measures again
    assert alone(goes_on, str(easy_store.path), str(out)) == Ended(0)
    assert without_times(read_report(out)) == without_times(read_report(unkilled))
    assert compare_run(out, replicates=10)["model_name"] == "LightGBM"


def test_a_comparison_that_fails_loses_nothing(
    easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of training must not wait for LightGBM to be mended; the same for an evaluation that fails."""

    def fails(*_: Any, **__: Any) -> Any:
        raise DataError("validation rows must hold fraud and genuine payments")

    for place, measured in (("comparison_on", {"evaluation", "calibration"}), ("report_on", None)):
        trained = train_network(easy_store, tmp_path / place, model=TINY, training=settings())
        with monkeypatch.context() as patch:
            patch.setattr(evaluate_and_bundle, place, fails)
            with pytest.raises(DataError, match="validation rows"):
                measure_trained(trained, comparison=True)
        metrics = Bundle.open(tmp_path / place / "bundle").metrics
        assert (metrics if metrics is None else set(metrics)) == measured
        assert evaluate(tmp_path / place, replicates=10)["evaluation"]["n"] > 0, "the run has finished"
