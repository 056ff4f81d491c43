"""A run that is killed at any moment and resumed ends with the weights of one that was not killed, to the bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors.torch import load_file

from support.easy_log import MARKET, TINY, Ended, alone, begin, die, ended, settings, side_by_side
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.progress import silent
from tsa.training import checkpoint, train
from tsa.training.data.sampler import Sampler
from tsa.training.parts import train_parts
from tsa.training.train_step import TrainStep
from tsa.training.validation import DistributedScorer

OFTEN = {
    **{"epochs": 6, "early_stopping": False, "checkpoint_every_minutes": 1e-4},
    **{"batch_size": 16, "genuine_per_fraud": 1.0, "importance_sampling_every": 2},
}
"""A checkpoint after nearly every step; genuine payments drawn by importance, in every other epoch by that of the last."""
KILLS = 10 if os.environ.get("TSA_LONG") else 5
TIMES = ("payments_per_second", "waiting_share", "checkpoint_seconds", "memory_bytes", "seconds")


def run(path: str, out: str, changes: dict[str, Any], resume: bool = True) -> None:
    train(path, out, model=TINY, training=settings(**changes), resume=resume)


def outcome(out: Path) -> tuple[bytes, list[dict[str, Any]], bytes]:
    """What may not differ: weights, figures of the epochs but for times, scores."""
    epochs = json.loads((out / "run.json").read_text())["epochs"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines == epochs, "each epoch once, however often the run was killed"
    metric_values = [{name: value for name, value in record.items() if name not in TIMES} for record in epochs]
    weights, scores = "bundle/weights.safetensors", "validation_scores.parquet"
    return (out / weights).read_bytes(), metric_values, (out / scores).read_bytes()


@pytest.fixture(scope="module")
def unkilled(easy_store: EventStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unkilled") / "run"
    assert alone(run, str(easy_store.path), str(out), OFTEN) == Ended(0)
    return out


def test_killed_at_random_points(easy_store: EventStore, unkilled: Path, tmp_path: Path) -> None:
    """Each time it goes on from its last checkpoint, until it is killed again."""
    out, chance, steps = tmp_path / "run", random.Random(7), []
    for _ in range(KILLS):
        process, connection = begin(run, str(easy_store.path), str(out), OFTEN)
        wait_for_more(out, chance.randint(1, 7), process.pid)
        time.sleep(chance.uniform(0.0, 0.01))
        os.kill(process.pid or 0, signal.SIGKILL)
        assert ended(process, connection).code == -signal.SIGKILL, "it had not finished yet"
        steps.append(max(path.name for path in (out / "checkpoints").glob("last-*")))
    assert steps == sorted(steps)
    assert len(set(steps)) == KILLS, "spread over the run"
    assert alone(run, str(easy_store.path), str(out), OFTEN) == Ended(0)
    assert outcome(out) == outcome(unkilled)


def dies_with_trees(number: int, path: str, out: str) -> None:
    """Train network and trees; the process kills itself when LightGBM begins for the `number`th time."""
    original, seen = train_parts.fit_trees, 0

    def patched(*arguments: Any, **settings: Any) -> Any:
        nonlocal seen
        seen += 1
        made = original(*arguments, **settings)
        if seen == number:
            die()
        return made

    train_parts.fit_trees = patched
    train(path, out, model={**TINY, "parts": "combined"}, training=settings(**OFTEN), resume=True)


def test_killed_while_trees_are_trained(easy_store: EventStore, tmp_path: Path) -> None:
    unkilled, out = tmp_path / "unkilled", tmp_path / "run"
    assert alone(dies_with_trees, 0, str(easy_store.path), str(unkilled)) == Ended(0)
    assert alone(dies_with_trees, 1, str(easy_store.path), str(out)).code == -signal.SIGKILL
    assert alone(dies_with_trees, 0, str(easy_store.path), str(out)) == Ended(0)
    for file in ("bundle/trees.txt", "bundle/parts.json", "bundle/calibration.json"):
        assert (out / file).read_bytes() == (unkilled / file).read_bytes()
    assert outcome(out) == outcome(unkilled)


def wait_for_more(out: Path, steps: int, pid: int | None) -> None:
    """Until the process has saved at least so many steps later than where it began; of some 90, at most ten times 7."""
    goal, deadline = saved_steps(out) + steps, time.monotonic() + 120
    while saved_steps(out) < goal and time.monotonic() < deadline:
        time.sleep(0.001)
        assert Path(f"/proc/{pid}").exists()


def saved_steps(out: Path) -> int:
    """The number of the step, of 15 per epoch, that the newest checkpoint was written after."""
    newest = max((path.name for path in out.glob("checkpoints/last-*")), default="last-000001-000000000")
    _, epoch, step = newest.split("-")
    return 15 * (int(epoch) - 1) + int(step)


def dies_at(place: str, number: int, path: str, out: str, changes: dict[str, Any]) -> None:
    """The process kills itself when it comes to a place for the `number`th time."""
    owner, name = PLACES[place]
    original, seen = getattr(owner, name), 0

    def patched(*arguments: Any, **settings: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen < number:
            return original(*arguments, **settings)
        if place == "half a file":
            target = arguments[1]
            original(*arguments, **settings)
            os.truncate(target, target.stat().st_size // 2)
        if place.startswith("after"):
            original(*arguments, **settings)
        die()

    setattr(owner, name, patched)
    run(path, out, changes)


PLACES: dict[str, tuple[Any, str]] = {
    "half a file": (checkpoint, "save_file"),
    "before the manifest": (checkpoint, "write_json"),
    "after the manifest": (checkpoint, "write_json"),
    "before tidying up": (checkpoint.Checkpoints, "prune"),
    "after tidying up": (checkpoint.Checkpoints, "prune"),
    "after the best weights": (checkpoint.Checkpoints, "save_best"),
    "in a step": (TrainStep, "_gradients"),
    "in a draw": (Sampler, "_score_candidates"),
    "in scoring": (DistributedScorer, "_all"),
    "before the bundle": (Bundle, "save"),
    "after the bundle": (Bundle, "save"),
}


def test_killed_at_the_worst_moments(easy_store: EventStore, unkilled: Path, tmp_path: Path) -> None:
    """One after the other, the second time that a run comes to each; the bundle is written once."""
    out = tmp_path / "run"
    for place in PLACES:
        number = 1 if place in ("in a draw", "before the bundle", "after the bundle") else 2
        ends = alone(dies_at, place, number, str(easy_store.path), str(out), OFTEN)
        assert ends == Ended(-signal.SIGKILL), place
    assert alone(run, str(easy_store.path), str(out), OFTEN) == Ended(0)
    assert outcome(out) == outcome(unkilled)
    kept = {path.name for path in (out / "checkpoints").iterdir()}
    assert kept == {"last-000007-000000000", "best-000006.safetensors"}, "nothing half written is left behind"


def test_sigterm_saves_and_stops(easy_store: EventStore, unkilled: Path, tmp_path: Path) -> None:
    """Between two steps, and while payments are scored."""
    out, rare = tmp_path / "run", {**OFTEN, "checkpoint_every_minutes": 60.0}
    for place in ("in a step", "in scoring"):
        ends = alone(asked_to_stop, place, str(easy_store.path), str(out), rare)
        assert ends.error is not None
        assert "TrainingStopped: stopped by a signal: a checkpoint was saved in epoch" in ends.error
    assert alone(run, str(easy_store.path), str(out), rare) == Ended(0)
    assert outcome(out) == outcome(unkilled)


def asked_to_stop(place: str, path: str, out: str, changes: dict[str, Any]) -> None:
    owner, name = (TrainStep, "_gradients") if place == "in a step" else (DistributedScorer, "_stoppable")
    original, seen = getattr(owner, name), 0

    def patched(*arguments: Any, **settings: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **settings)

    setattr(owner, name, patched)
    run(path, out, changes)


def test_two_processes_are_stopped_and_go_on(easy_store: EventStore, tmp_path: Path) -> None:
    """SIGTERM in one of them stops both at the same step. Resumed by two, to the bit what two would have made."""
    rare = {**OFTEN, "epochs": 3, "checkpoint_every_minutes": 60.0}
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert side_by_side(2, run, str(easy_store.path), str(whole), rare) == [Ended(0)] * 2
    for place in ("in a step", "in scoring"):
        stopped = side_by_side(2, second_asked_to_stop, place, str(easy_store.path), str(out), rare)
        assert stopped[0].error == stopped[1].error
        assert "TrainingStopped: stopped by a signal" in str(stopped[0].error)
    assert side_by_side(2, run, str(easy_store.path), str(out), rare) == [Ended(0)] * 2
    assert outcome(out) == outcome(whole)


def second_asked_to_stop(place: str, *arguments: Any) -> None:
    (asked_to_stop if os.environ["RANK"] == "1" else lambda _, *rest: run(*rest))(place, *arguments)


@pytest.fixture(scope="module")
def killed(easy_store: EventStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that was killed in its second."""
    out = tmp_path_factory.mktemp("killed") / "run"
    ends = alone(dies_at, "in a step", 20, str(easy_store.path), str(out), {**OFTEN, "epochs": 3})
    assert ends == Ended(-signal.SIGKILL)
    return out


@pytest.fixture
def stopped(killed: Path, tmp_path: Path) -> Path:
    """A copy of it, to go on with."""
    return Path(shutil.copytree(killed, tmp_path / "stopped"))


def go_on(store: EventStore, out: Path, **changes: Any) -> Bundle:
    return train(store, out, model=TINY, training=settings(**{**OFTEN, "epochs": 3, **changes}), resume=True)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 4}, r"training\.epochs: 3, 4"),
        ({"learning_rate": 0.5}, r"training\.learning_rate: 0\.02, 0\.5"),
        ({"seed": 1}, r"training\.seed: 0, 1"),
    ],
)
def test_other_settings_are_refused(easy_store: EventStore, stopped: Path, changes: dict[str, Any], text: str) -> None:
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"is of another run \(checkpoint, then this run\):\n  " + text):
        go_on(easy_store, stopped, **changes)
    assert before == {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}


def test_another_model_market_or_store_is_refused(easy_store: EventStore, stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.width: 8, 16"):
        train(easy_store, stopped, model={**TINY, "width": 16}, training=settings(**OFTEN), resume=True)
    log = tmp_path / "log.parquet"
    rows = easy_store.columns(["id", "customer", "category", "amount"]).with_columns(
        time=pl.Series(easy_store.time_seconds), fraud=pl.Series(easy_store.label)
    )
    rows.write_parquet(log)
    other = prepare(Market.from_dict({**MARKET, "name": "other"}), [str(log)], tmp_path / "other")
    with pytest.raises(ConfigError, match=r"market\.name: 'easy', 'other'"):
        go_on(other, stopped)
    fewer = rows.filter(pl.col("id") != 5)
    fewer.write_parquet(log)
    with pytest.raises(ConfigError, match=r"store.n_events: \d+, \d+"):
        go_on(prepare(easy_store.market, [str(log)], tmp_path / "fewer"), stopped)


def test_a_market_file_may_word_reasons_otherwise(easy_store: EventStore, stopped: Path, tmp_path: Path) -> None:
    """That is no part of what a market means, and nothing is learned from it."""
    rows = easy_store.columns(["id", "customer", "category", "amount"]).with_columns(
        time=pl.Series(easy_store.time_seconds), fraud=pl.Series(easy_store.label)
    )
    rows.write_parquet(tmp_path / "log.parquet")
    other = Market.from_dict({**MARKET, "reasons": {"most": 3}, "serving": {"unknown_fields": "refuse"}})
    go_on(prepare(other, [str(tmp_path / "log.parquet")], tmp_path / "other"), stopped)


def test_settings_that_move_no_weight_may_differ(easy_store: EventStore, stopped: Path) -> None:
    go_on(easy_store, stopped, checkpoint_every_minutes=5.0, num_workers=1, save_top_k=3)


def test_more_of_the_best_are_kept_from_now_on(easy_store: EventStore, tmp_path: Path) -> None:
    """Those that were thrown away before cannot be had back, and are not missed."""
    out = tmp_path / "run"
    few = {"epochs": 4, "patience": 4, "early_stopping": True, "monitor": "loss", "monitor_mode": "max"}

    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 3:
            raise KeyError("killed")

    with pytest.raises(KeyError):
        train(easy_store, out, model=TINY, training=settings(**few), on_epoch=stop)
    train(easy_store, out, model=TINY, training=settings(**few, save_top_k=4), resume=True)
    kept = sorted(path.name for path in (out / "checkpoints").glob("best-*"))
    assert kept == [f"best-{epoch:06}.safetensors" for epoch in (1, 3, 4)], "the second was worse than the first"


def test_sigterm_to_all_processes_of_a_job(easy_store: EventStore, unkilled: Path, tmp_path: Path) -> None:
    """As torchrun sends it: the workers that gather batches get it too, and gather on until a checkpoint is saved."""
    out, rare = tmp_path / "run", {**OFTEN, "checkpoint_every_minutes": 60.0, "num_workers": 1}
    ends = alone(group_asked_to_stop, str(easy_store.path), str(out), rare)
    assert "TrainingStopped: stopped by a signal: a checkpoint was saved in epoch" in str(ends.error)
    assert alone(run, str(easy_store.path), str(out), rare) == Ended(0)
    assert outcome(out) == outcome(unkilled)


def group_asked_to_stop(path: str, out: str, changes: dict[str, Any]) -> None:
    os.setpgrp()
    original, seen = TrainStep.step, 0

    def patched(*arguments: Any, **settings: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 12:
            os.killpg(0, signal.SIGTERM)
            time.sleep(0.5)  # for workers that die of it to be missed
        return original(*arguments, **settings)

    TrainStep.step = patched  # type: ignore[method-assign]
    run(path, out, changes)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def test_a_torn_checkpoint_is_skipped(easy_store: EventStore, stopped: Path, killed: Path) -> None:
    """The run goes on from the one before, and ends as it would have."""
    short, whole = {**OFTEN, "epochs": 3}, Path(shutil.copytree(killed, stopped.with_name("whole")))
    torn = max((stopped / "checkpoints").glob("last-*"))
    flip(torn / "tensors.safetensors")
    for out in (stopped, whole):
        assert alone(run, str(easy_store.path), str(out), short) == Ended(0)
    assert outcome(stopped) == outcome(whole)
    assert (stopped / "checkpoints" / f"torn-{torn.name}").is_dir()


def test_without_a_good_checkpoint_it_begins_anew(
    easy_store: EventStore, stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (stopped / "checkpoints").glob("last-*"):
        flip(path / "tensors.safetensors")
    go_on(easy_store, stopped)
    assert "has no checkpoint to resume from" in caplog.text
    assert load_file(stopped / "bundle" / "weights.safetensors")


def test_an_unfinished_run_is_not_overwritten(easy_store: EventStore, stopped: Path) -> None:
    """Only --resume, or removing its checkpoints by hand, touches it."""
    with pytest.raises(ConfigError, match="holds an unfinished run; continue it with --resume"):
        train(easy_store, stopped, model=TINY, training=settings())
    shutil.rmtree(stopped / "checkpoints")
    train(easy_store, stopped, model=TINY, training=settings(epochs=1))


def test_a_finished_run_is_replaced_only_if_told_to(easy_store: EventStore, unkilled: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(unkilled, tmp_path / "run"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(
        ConfigError, match="holds a finished run; choose another folder, or replace it with --overwrite"
    ):
        train(easy_store, out, model=TINY, training=settings(epochs=1))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    train(easy_store, out, model=TINY, training=settings(epochs=1), overwrite=True)
    assert len(json.loads((out / "run.json").read_text())["epochs"]) == 1


def test_a_finished_run_is_left_alone(easy_store: EventStore, unkilled: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(unkilled, tmp_path / "run"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    bundle = train(easy_store, out, model=TINY, training=settings(**OFTEN), resume=True, progress=silent)
    assert bundle.training["best_epoch"] == 6
    with pytest.raises(
        ConfigError, match=r"holds another, finished run \(that run, then this\):\n  training.seed: 0, 5"
    ):
        train(easy_store, out, model=TINY, training=settings(**OFTEN, seed=5), resume=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
