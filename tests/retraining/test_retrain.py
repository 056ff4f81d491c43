"""Rounds of retraining: what is carried over, judged and promoted, and rounds that are killed or run twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest

from support.easy_log import MARKET, TINY, alone, die, settings
from tsa.bundle.bundle import Bundle, set_decision_policy
from tsa.config.market import Market
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, RegistryError
from tsa.evaluation.trained_run import TrainedRun
from tsa.files.locking import used_alone
from tsa.registry import Registry
from tsa.retraining import Retrained, retrain
from tsa.retraining.champion_settings import equal_share
from tsa.retraining.publishing import Aliases, published

SPLIT = {
    "train": "last 6 days before validation",
    "validation": "last 2 days before calibration",
    "calibration": "last 2 days before test",
    "test": "last 2 days",
}
TABLE = {**MARKET, "split": SPLIT, "promotion": {"min_difference": -0.2, "min_frauds": 5}}
LONG = bool(os.environ.get("TSA_LONG"))
Round = Callable[..., Retrained]


@pytest.fixture(scope="module")
def first(easy_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two logs, and after the first round: store, registry and a champion with decisions."""
    folder = tmp_path_factory.mktemp("rounds")
    log = pl.read_parquet(easy_log).sort("time", "id")
    log.head(1400).write_parquet(folder / "first.parquet")
    log.tail(200).write_parquet(folder / "second.parquet")
    made = one_round(folder, "first.parquet", promote=True)
    assert made.promoted
    assert made.champion is None
    shutil.copytree(made.run / "bundle", folder / "decided")
    set_decision_policy(folder / "decided", ["review=0.5", "decline=0.9"], score="raw_score")
    registry = Registry.open(str(folder / "registry"))
    registry.promote(registry.publish(folder / "decided", by="ann").sha256, by="ann")
    return folder


def one_round(folder: Path, *logs: str, table: Any = None, **options: Any) -> Retrained:
    return retrain(
        Market.from_dict(table or TABLE),
        folder / "store",
        str(folder / "registry"),
        [folder / log for log in logs],
        model={**TINY, "parts": "network"},
        training=settings(epochs=2),
        **options,
    )


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "rounds"))


@pytest.fixture(scope="module")
def second(first: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Retrained]:
    """After the second round."""
    folder = Path(shutil.copytree(first, tmp_path_factory.mktemp("second") / "rounds"))
    return folder, one_round(folder, "second.parquet", promote=True)


def test_the_candidate_is_promoted_with_the_champions_decisions(second: tuple[Path, Retrained]) -> None:
    folder, made = second
    registry = Registry.open(str(folder / "registry"))
    assert made.promoted
    assert made.passed
    entry = registry.current("champion")
    assert entry.sha256 == registry.current("challenger").sha256 == made.candidate
    assert entry.evidence is not None
    assert entry.evidence["passed"] is True
    bundle = Bundle.open(made.run / "bundle")
    assert bundle.thresholds is not None
    assert [decision.name for decision in bundle.thresholds.decisions] == ["decline", "review"]
    assert bundle.metrics is not None
    gate = json.loads((made.run / "gate.json").read_text())
    assert gate["champion"]["sha256"] == made.champion
    page = (made.run / "retrain.html").read_text()
    assert made.candidate[:12] in page
    assert str(made.champion)[:12] in page
    splits = bundle.data["splits"]["test"] if bundle.data else {}
    assert splits["end"][:10] == "2018-05-22"  # relative ranges have moved on


def test_the_same_round_again_does_nothing(second: tuple[Path, Retrained]) -> None:
    folder, made = second
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    again = one_round(folder, "second.parquet", promote=True)
    assert again.promoted
    assert again.candidate == made.candidate
    assert before == {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"
    }


def test_a_rolled_back_candidate_is_not_promoted_again(second: tuple[Path, Retrained], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(second[0], tmp_path / "rounds"))
    shutil.move(folder / "store-retrain", tmp_path / "away")
    shutil.move(tmp_path / "away", folder / "store-retrain")
    registry = Registry.open(str(folder / "registry"))
    registry.rollback(by="bob", why="complaints")
    again = one_round(folder, "second.parquet", promote=True)
    assert not again.promoted
    assert "promote it by hand" in again.summary
    assert registry.current("champion").action == "rollback"


def test_a_candidate_that_fails_is_published_and_not_promoted(folder: Path, tsa: Any, tmp_path: Path) -> None:
    strict = {**TABLE, "promotion": {"min_frauds": 10_000}}
    champion = Registry.open(str(folder / "registry")).current("champion").sha256
    made = one_round(folder, "second.parquet", table=strict, promote=True)
    assert not made.passed
    assert not made.promoted
    registry = Registry.open(str(folder / "registry"))
    assert registry.current("champion").sha256 == champion
    assert registry.current("challenger").sha256 == made.candidate


class KilledError(BaseException):
    """As a signal that ends the process."""


def test_a_killed_round_continues_and_ends_alike(
    folder: Path, second: tuple[Path, Retrained], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["tsa.retraining.retrain"]

    def die(*_: Any, **__: Any) -> None:
        raise KilledError

    steps = ["append", "measure_trained", "carry_over", "apply_gate", "write_page"]
    for target, name in [*((module, step) for step in steps), (Registry, "publish"), (Registry, "promote")]:
        with monkeypatch.context() as patched:
            patched.setattr(target, name, die)
            with pytest.raises(KilledError):
                one_round(folder, "second.parquet", promote=True)
    made = one_round(folder, "second.parquet", promote=True)
    assert made.promoted
    assert made.candidate == second[1].candidate


STEPS = ("append", "train_network", "measure_trained", "carry_over", "apply_gate", "write_page", "publish", "promote")


def killed_round(folder: str, step: str) -> None:
    """A round that is killed where a step begins."""
    module = sys.modules["tsa.retraining.retrain"]
    target = Registry if step in ("publish", "promote") else module
    with patch.object(target, step, lambda *_, **__: die()):
        one_round(Path(folder), "second.parquet", promote=True)


def round_killed_at(folder: str, number: int) -> int:
    """A round that is killed where it renames or links its file of this number; how many it has, if it comes to its end."""
    calls = [0]

    def counted(system_call: Callable[..., None]) -> Callable[..., None]:
        def called(*arguments: Any, **options: Any) -> None:
            if calls[0] == number:
                die()
            calls[0] += 1
            system_call(*arguments, **options)

        return called

    with patch("os.replace", counted(os.replace)), patch("os.link", counted(os.link)):
        one_round(Path(folder), "second.parquet", promote=True)
    return calls[0]


def ends_alike(folder: Path, second: tuple[Path, Retrained]) -> None:
    """The next call ends as a round that nobody killed, and left nothing twice."""
    made = one_round(folder, "second.parquet", promote=True)
    assert (made.candidate, made.promoted) == (second[1].candidate, True)
    registry, undisturbed = (Registry.open(str(place / "registry")) for place in (folder, second[0]))
    assert [version.sha256 for version in registry.versions()] == [v.sha256 for v in undisturbed.versions()]
    for alias in ("champion", "challenger"):
        moves = [[entry.sha256 for entry in one.history(alias)] for one in (registry, undisturbed)]
        assert moves[0] == moves[1], alias
    assert len(EventStore.open(folder / "store")) == len(EventStore.open(second[0] / "store"))


@pytest.mark.parametrize("step", STEPS if LONG else ("publish",))
def test_a_round_that_sigkill_ended_continues(step: str, folder: Path, second: tuple[Path, Retrained]) -> None:
    assert alone(killed_round, str(folder), step).code == -signal.SIGKILL
    ends_alike(folder, second)


@pytest.mark.skipif(not LONG, reason="takes some minutes: TSA_LONG=1")
def test_a_round_may_be_killed_at_every_file(first: Path, second: tuple[Path, Retrained], tmp_path: Path) -> None:
    files = alone(round_killed_at, str(shutil.copytree(first, tmp_path / "all")), -1)
    assert files.error is None
    assert files.value > len(STEPS)
    for number in range(files.value):
        folder = Path(shutil.copytree(first, tmp_path / str(number)))
        assert alone(round_killed_at, str(folder), number).code == -signal.SIGKILL
        ends_alike(folder, second)
        shutil.rmtree(folder)


def test_a_refitted_candidate_is_judged_on_the_same_payments(folder: Path, second: tuple[Path, Retrained]) -> None:
    made = one_round(folder, "second.parquet", promote=True, refit=True)
    assert made.promoted
    assert made.run.name.endswith("-refit")
    bundle = Bundle.open(made.run / "bundle")
    assert bundle.metrics is not None
    assert "refit" in bundle.training
    plain = second[1].gate
    assert [made.gate[name] for name in ("payments", "frauds", "start", "end")] == [
        plain[name] for name in ("payments", "frauds", "start", "end")
    ]
    again = one_round(folder, "second.parquet", promote=True, refit=True)
    assert again.candidate == made.candidate


def test_a_champion_promoted_during_the_round_is_not_replaced(folder: Path, second: tuple[Path, Retrained]) -> None:
    """The registry has not seen the candidate, and its champion is not the one of the gate."""
    registry, gate = Registry.open(str(folder / "registry")), dict(second[1].gate)
    moves = registry.history("champion")
    aliases = Aliases(registry=registry, champion="champion", challenger="challenger", by="timer", promote=True)
    run = TrainedRun.open(second[1].run)
    with pytest.raises(RegistryError, match=f"ann moved champion to {moves[-1].sha256[:12]} during this round"):
        published(run, {**gate, "champion": {"sha256": moves[0].sha256}}, aliases)
    assert registry.history("champion") == moves
    with pytest.raises(RegistryError, match=r"ann moved champion .* at the same time; nothing was changed"):
        registry.promote(second[1].candidate, by="timer", seen=moves[:-1])
    assert published(run, gate, aliases).promoted


def test_one_round_at_a_time(folder: Path) -> None:
    with used_alone(folder / "store-retrain", "a test"), pytest.raises(ConfigError, match="one tsa retrain at a time"):
        one_round(folder, "second.parquet")


def test_a_store_or_logs_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a store, or logs must be given"):
        one_round(tmp_path)


def test_limits_of_raw_scores_keep_their_share() -> None:
    before, now = np.linspace(0, 1, 101), np.linspace(0, 0.5, 101)
    limit = equal_share(before, 0.9, now)
    assert (now >= limit).sum() == (before >= 0.9).sum()
    assert equal_share(before, 2.0, now) == 2.0
