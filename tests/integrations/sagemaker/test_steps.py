"""The pipeline's steps, run one after another on the folders that SageMaker mounts: from wire rows to a scored batch."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import tsa
from support.sagemaker_pipeline import LocalPipeline
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.integrations.sagemaker import steps
from tsa.integrations.sagemaker.pipeline import definition
from tsa.registry import Registry
from tsa.simulation import SimulationConfig, write_wire

MARKETS = Path(__file__).parents[3] / "src" / "tsa" / "markets"
SMALL = {
    "model.width": "16",
    "model.parts": "network",
    "model.n_ensemble": "1",
    "training.epochs": "1",
    "training.batch_size": "256",
}
HISTORY = '[[history]]\nname = "cid"\nkey = "customer_id"\nlength = 4\n'
MARKET = """
name = "{name}"
[event]
id = "id"
time = "at"
time_unit = "s"
amount = "amount"
[label]
column = "fraud"
delay_days = 0
{histories}
[features]
categorical = ["device", "channel"]
numerical = ["amount"]
[split]
fractions = [0.3, 0.1, 0.4, 0.2]
[wire]
separator = ";SEP;"
history_field = "{{history}}.{{feature}}"
event_field = "{{history}}.{{part}}.{{feature}}"
"""
CONFIG = SimulationConfig(payments=3000, customers=300, fraud_rate=0.05, days=60)


def market_of(name: str, folder: Path) -> Path:
    """One history, as EU has, or two, as NA has."""
    two = HISTORY.replace('"cid"', '"ccid"').replace('"customer_id"', '"card_id"') if name == "na" else ""
    path = folder / f"{name}.toml"
    path.write_text(MARKET.format(name=name, histories=HISTORY + two))
    return path


def execution(market: Path, folder: Path, config: SimulationConfig, **settings: Any) -> tuple[LocalPipeline, Path]:
    """A pipeline for simulated rows of a market, and the rows."""
    logs = folder / "logs"
    logs.mkdir()
    write_wire(config, Market.load(market), logs / "rows.parquet")
    parameters = {
        "Market": market.name,
        "MarketFolder": str(market.parent),
        "Logs": str(logs),
        "Output": str(folder / "out"),
        "Registry": str(folder / "registry"),
    }
    return LocalPipeline(
        definition(), {**parameters, **settings.pop("parameters", {})}, folder / "steps", **settings
    ), logs


@pytest.mark.parametrize("name", ["eu", "na"])
def test_from_wire_rows_to_a_scored_batch(name: str, tmp_path: Path) -> None:
    (tmp_path / "markets").mkdir()
    pipeline, logs = execution(market_of(name, tmp_path / "markets"), tmp_path, CONFIG)
    pipeline.run(SMALL)
    assert pipeline.ran == ["Preprocess", "Train", "Calibrate", "Evaluate", "Register"]
    registry = Registry.open(str(tmp_path / "registry"))
    version = registry.resolve("challenger")
    assert version.market == name
    assert set(version.metrics) == {"average_precision", "roc_auc"}
    evaluation = json.loads((pipeline.outputs["Evaluate/report"] / "evaluation.json").read_text())
    assert evaluation["bundle"] == version.sha256
    assert evaluation["metrics"]["average_precision"]["value"] == version.metrics["average_precision"]["value"]
    registry.pull("challenger", tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.calibration is not None
    assert bundle.calibration.probability is not None
    scores = tsa.Scorer.load(tmp_path / "bundle").score(logs)
    assert len(scores) == CONFIG.payments
    assert scores["probability"].is_between(0, 1).all()


def test_a_bundle_that_is_not_good_enough_is_not_registered(tmp_path: Path) -> None:
    (tmp_path / "markets").mkdir()
    market = market_of("eu", tmp_path / "markets")
    pipeline, _ = execution(market, tmp_path, CONFIG, parameters={"MinAveragePrecision": 1.1})
    pipeline.run(SMALL)
    assert pipeline.ran[-1] == "NotGoodEnough"
    assert not (tmp_path / "registry").exists()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TSA_LONG"), reason="takes minutes")
@pytest.mark.parametrize("name", ["eu", "na"])
def test_the_markets_of_the_legacy_system(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes of EU and NA, each step's command as a process."""
    monkeypatch.setenv(f"TSA_{name.upper()}_SECRET", "0" * 64)
    config = SimulationConfig(payments=2800, customers=400, fraud_rate=0.05, days=200)
    markets = Path(shutil.copytree(MARKETS, tmp_path / "markets"))
    split = "[split]\nfractions = [0.3, 0.1, 0.4, 0.2]\n"  # probabilities need 1,000 payments
    (markets / "small.toml").write_text(f'extends = "{name}.toml"\n{split}')
    pipeline, logs = execution(markets / "small.toml", tmp_path, config, processes=True)
    pipeline.run(SMALL)
    assert pipeline.ran[-1] == "Register"
    Registry.open(str(tmp_path / "registry")).pull("challenger", tmp_path / "bundle")
    scores = tsa.Scorer.load(tmp_path / "bundle").score(logs)
    assert isinstance(scores, pl.DataFrame)
    assert len(scores) == config.payments


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["preprocess", "--market", "eu.toml"], "market must name a file of the input market"),
        (["calibrate"], "the step needs the input model"),
        (["evaluate"], "the step needs the input bundle"),
        (["register", "--registry", "r"], "the step needs the input bundle"),
    ],
)
def test_a_step_without_its_inputs_says_so(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    assert steps.main(words) == 1
    assert said in caplog.text


def test_a_model_that_is_no_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    (tmp_path / "processing" / "input" / "model").mkdir(parents=True)
    (tmp_path / "processing" / "input" / "model" / "model.tar.gz").write_bytes(b"none")
    assert steps.main(["calibrate"]) == 1
    assert "must be the model.tar.gz of a training job" in caplog.text
