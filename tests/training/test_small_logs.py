"""Logs with few payments or few frauds: the defaults adapt, and the whole job works."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsa.training.config import TrainingConfig
from tsa.training.small_logs import adapt_to_log

Tsa = Callable[..., Any]


def labels(frauds: int, genuine: int) -> np.ndarray:
    return np.repeat(np.array([1, 0], np.int8), [frauds, genuine])


@pytest.mark.parametrize("frauds", [320, 1_000, 50_000])
def test_a_larger_log_keeps_the_defaults(frauds: int) -> None:
    config = TrainingConfig()
    adapted = adapt_to_log(config, {}, labels(frauds, 40 * frauds), labels(frauds, frauds))
    assert (adapted.training, adapted.model, adapted.notes) == (config, {}, ())


@pytest.mark.parametrize(
    ("frauds", "genuine"), [(1, 1), (1, 200), (3, 207), (10, 690), (35, 3_465), (200, 100), (319, 9_000)]
)
def test_an_epoch_fills_batches_and_there_are_enough_steps(frauds: int, genuine: int) -> None:
    adapted = adapt_to_log(TrainingConfig(), {}, labels(frauds, genuine), labels(1, 20))
    found = adapted.training
    rows = frauds + min(genuine, round(frauds * found.genuine_per_fraud))
    assert 1 <= found.batch_size <= rows
    assert found.epochs == 100 or found.epochs * (rows // found.batch_size) >= 200
    assert not found.early_stopping
    assert TrainingConfig.make(found.model_dump()) == found, "they are settings that a user could give"
    assert adapted.model == {"n_ensemble": 8}
    assert str(found.batch_size) in adapted.notes[0]


def test_what_was_given_stays() -> None:
    given = {"batch_size": 4, "epochs": 2, "genuine_per_fraud": 3.0, "early_stopping": True}
    adapted = adapt_to_log(TrainingConfig.make(given), {"n_ensemble": 2}, labels(5, 100), labels(1, 20))
    assert adapted.training == TrainingConfig.make(given)
    assert not adapted.model
    assert adapt_to_log(TrainingConfig(), {"n_ensemble": 2}, labels(5, 100), labels(9, 20)).model == {}


LOGS = [(300, 5), (1_000, 20)]
MORE_LOGS = [(300, 50), (1_000, 5), (1_000, 50), (5_000, 5), (5_000, 50)] if os.environ.get("TSA_LONG") else []


@pytest.mark.parametrize(("payments", "frauds"), LOGS + MORE_LOGS)
def test_the_whole_job(tsa: Tsa, demo_market: Path, tmp_path: Path, payments: int, frauds: int) -> None:
    """Nothing is set but the ranges, which the market of a short log names."""
    log, run = tmp_path / "log.parquet", tmp_path / "run"
    made = tsa("simulate", "--payments", payments, "--fraud-rate", frauds / payments, "--seed", 3, "--out", log, "-q")
    assert made.code == 0, made.err
    spread_frauds(log, frauds)
    fractions = "split={fractions=[0.6,0.1,0.1,0.2]}"
    made = tsa("run", log, "--market", demo_market, "--set", fractions, "--out", run, "-q")
    assert made.code == 0, made.err
    account, report = (json.loads((run / name).read_text()) for name in ("run.json", "report.json"))
    assert account["adapted"] == report["training"]["adapted"]
    assert f"only {account['rows']['train']['frauds']} fraud" in account["adapted"][0]
    assert account["adapted"][0] in (run / "run.log").read_text()
    assert report["evaluation"]["n"] > 0
    done, training = len(account["epochs"]), account["training"]
    stopped_early = training["early_stopping"] and done - account["best_epoch"] >= training["patience"]
    assert done == training["epochs"] or stopped_early


def spread_frauds(log: Path, frauds: int) -> None:
    """Exactly so many labelled frauds, spread over the log, so that the training range has some."""
    payments = pl.read_parquet(log).sort("paid_at")
    rows = np.linspace(0.05 * len(payments), 0.98 * len(payments), frauds).astype(int)
    label = np.zeros(len(payments), np.int8)
    label[rows] = 1
    payments.with_columns(pl.Series("is_fraud", label, dtype=payments["is_fraud"].dtype)).write_parquet(log)
