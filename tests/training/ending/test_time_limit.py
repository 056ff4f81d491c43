"""A limit on time: what fits is planned, training ends in time, and the run says what more would bring."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.easy_log import TINY, settings
from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.training import TimeLimit, TrainingConfig, train, trainer, training_run
from tsa.training.ending import time_limit
from tsa.training.ending.time_limit import MEASURED_STEPS, Pace, outlook
from tsa.training.parts import train_parts


def measured_pace(steps: int = 100, seconds_per_step: float = 0.5) -> Pace:
    pace = Pace(steps=steps, validated=100, finally_scored=200, batch_size=10)
    seen = [pace.saw_step(number, 7.0 + number * seconds_per_step) for number in range(1, steps + 1)]
    assert seen.count(True) == 1
    assert seen.index(True) + 1 == MEASURED_STEPS[1]
    return pace


def test_the_pace_leaves_time_for_validation_and_scores() -> None:
    pace = measured_pace()
    assert pace.seconds_per_step == pytest.approx(0.5)
    pace.saw_scoring(100, 2.0)
    assert pace.epoch_seconds == pytest.approx(100 * 0.5 + 100 * 0.02)
    assert pace.closing_seconds == pytest.approx(300 * 0.02)
    assert pace.steps_within(4.0 + 2 * 52.0) == 200
    assert pace.steps_within(3.0) == 0
    assert pace.another_epoch_fits(6.0 + 8.0)
    assert not pace.another_epoch_fits(6.0 + 7.0)


def test_an_epoch_of_one_step_has_no_pace() -> None:
    pace = Pace(steps=1, validated=1, finally_scored=1, batch_size=1)
    assert not pace.saw_step(1, 3.0)
    assert pace.seconds_per_step is None
    assert pace.closing_seconds == 0.0


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_minutes_must_be_above_0(minutes: float) -> None:
    with pytest.raises(ConfigError, match="minutes must be above 0"):
        TimeLimit(minutes=minutes)


def epochs_of(*values: float, **last: Any) -> list[dict[str, Any]]:
    records = [{"validation_average_precision": value} for value in values]
    records[-1] |= last
    return records


@pytest.mark.parametrize(
    ("values", "last", "says"),
    [
        (
            (0.2,),
            {"share_of_epoch": 0.5},
            "after 0.5 of 10 epochs; all of them would take about 9 minutes. More time would v",
        ),
        (
            (0.2, 0.5, 0.4),
            {},
            "no better than an earlier one (average precision): more time would probably bring little",
        ),
        ((0.2, 0.5, 0.6, 0.65), {}, "by +0.050; the rest would probably change it by about +0.049"),
    ],
)
def test_what_more_time_would_bring(values: tuple[float, ...], last: dict[str, Any], says: str) -> None:
    pace = measured_pace()
    pace.saw_scoring(100, 2.0)
    assert says in outlook(epochs_of(*values, **last), TrainingConfig(), pace, ended_by_time=True)


def test_what_is_said_when_time_was_enough() -> None:
    config = TrainingConfig(epochs=2)
    all_done = outlook(epochs_of(0.1, 0.2), config, measured_pace(), ended_by_time=False)
    assert all_done == "All 2 epochs fitted into the time."
    stopped = outlook(epochs_of(0.2), config, measured_pace(), ended_by_time=False)
    assert "more time would probably bring nothing" in stopped


class Clock:
    """Every look at it takes a millisecond, so that a busy machine changes nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.mark.parametrize("schedule", ["constant", "one_cycle", "cosine"])
def test_training_ends_in_time_with_a_bundle(
    easy_store: EventStore, tmp_path: Path, clock: Clock, schedule: str
) -> None:
    many = settings(epochs=1_000, early_stopping=False, lr_schedule=schedule, batch_size=16)
    limit = TimeLimit(minutes=0.01, began=clock())
    train(easy_store, tmp_path / "run", model=TINY, training=many, limit=limit)
    assert clock.now < 0.6
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert 1 < len(run["epochs"]) < 20
    assert run["outlook"].startswith("Time ended training after ")
    assert "finished" in run
    assert Bundle.open(tmp_path / "run" / "bundle").calibration is not None
    rates = [epoch["learning_rate"] for epoch in run["epochs"]]
    if schedule == "constant":
        assert max(rates) == many.learning_rate, "the warm-up is over in time"
    else:
        assert rates[-1] < 0.5 * max(rates), "the schedule ends with the time"


def test_time_of_the_trees_is_planned_for(
    easy_store: EventStore, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow trees leave less time for the network, which still ends in time; they are trained once."""
    given = []

    def slow(*args: Any, seconds: float, **settings: Any) -> Any:
        given.append(seconds)
        clock.now += 0.3
        return train_parts.train_trees(*args, seconds=seconds, **settings)

    monkeypatch.setattr(training_run, "train_trees", slow)
    many = settings(epochs=1_000, early_stopping=False, batch_size=16)
    limit = TimeLimit(minutes=0.01, began=clock())
    bundle = train(easy_store, tmp_path / "run", model={**TINY, "parts": "combined"}, training=many, limit=limit)
    assert clock.now < 0.6
    assert given == [pytest.approx(0.4 * 0.57, abs=0.01)]
    assert bundle.trees is not None
    assert bundle.choice["form"] == "combined"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["outlook"].startswith("Time ended training after ")


def test_a_limit_that_is_long_enough_changes_nothing(easy_store: EventStore, tmp_path: Path) -> None:
    two = settings(epochs=2, early_stopping=False)
    for name, limit in (("free", None), ("limited", TimeLimit(minutes=60))):
        train(easy_store, tmp_path / name, model=TINY, training=two, limit=limit)
    for file in ("weights.safetensors", "trees.txt", "parts.json"):
        one, other = ((tmp_path / name / "bundle" / file).read_bytes() for name in ("free", "limited"))
        assert one == other, file
    assert (
        json.loads((tmp_path / "limited" / "run.json").read_text())["outlook"] == "All 2 epochs fitted into the time."
    )
