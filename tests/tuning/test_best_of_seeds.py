"""Several seeds: each has a run, the best on validation is the model, and their spread is reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tsa.bundle.bundle import Bundle
from tsa.tuning.best_of_seeds import summary_of

Tsa = Callable[..., Any]
SMALL = (
    "model.width=8",
    "model.n_heads=2",
    "model.feedforward_width=16",
    "training.epochs=2",
    "training.batch_size=64",
)
QUICK = [text for setting in SMALL for text in ("--set", setting)]


@pytest.fixture(scope="module")
def run(tsa: Tsa, demo_log: Path, demo_market: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("seeds") / "run"
    options = ["--seeds", 3, "--no-compare", "--set", "training.seed=4", "-q"]
    done = tsa("run", demo_log, "--market", demo_market, "--out", out, *QUICK, *options)
    assert done.code == 0, done.err
    return out, done.out


def test_the_best_on_validation_is_the_model(run: tuple[Path, str]) -> None:
    out, printed = run
    report = json.loads((out / "report.json").read_text())
    seeds = report["training"]["seeds"]
    assert [one["seed"] for one in seeds["runs"]] == [4, 5, 6]
    best = max(seeds["runs"], key=lambda one: one["validation"]["average_precision"])
    assert seeds["chosen"] == best["seed"]
    weights = [(out / folder / "bundle/weights.safetensors").read_bytes() for folder in (".", f"seeds/{best['seed']}")]
    assert weights[0] == weights[1]
    assert report["evaluation"]["metrics"]["average_precision"]["value"] == pytest.approx(
        best["test"]["average_precision"], abs=1e-6
    )
    assert Bundle.open(out / "bundle").metrics is not None
    assert seeds["summary"] in (out / "report.html").read_text()
    assert "3 seeds from 4 on" in " ".join(printed.split())


def test_a_run_of_seeds_is_a_run(tsa: Tsa, run: tuple[Path, str], tmp_path: Path) -> None:
    out = Path(shutil.copytree(run[0], tmp_path / "run"))
    assert tsa("evaluate", out, "--replicates", 5, "-q").code == 0


def test_what_is_finished_is_not_trained_again(
    tsa: Tsa, run: tuple[Path, str], demo_log: Path, demo_market: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(run[0], tmp_path / "run"))
    shutil.rmtree(out / "seeds" / "6")
    untouched = (out / "seeds/5/run.json").read_bytes()
    options = ["--seeds", 3, "--no-compare", "--set", "training.seed=4", "-q"]
    command = ["run", demo_log, "--market", demo_market, "--out", out, *QUICK, *options]
    refused = tsa(*command)
    assert refused.code != 0
    assert "--overwrite" in refused.err
    again = tsa(*command, "--resume")
    assert again.code == 0, again.err
    assert (out / "seeds/5/run.json").read_bytes() == untouched
    weights = [(folder / "bundle/weights.safetensors").read_bytes() for folder in (out, run[0])]
    assert weights[0] == weights[1]


def measured(*values: float | None) -> list[dict[str, Any]]:
    return [{"seed": at, "test": {"average_precision": value, "roc_auc": None}} for at, value in enumerate(values)]


def test_the_summary() -> None:
    sentence = summary_of(measured(0.5, 0.7), 1)
    assert f"average precision 0.500, 0.700 (mean {mean([0.5, 0.7]):.3f}, standard deviation 0.141). " in sentence
    assert sentence.endswith("The model is that of seed 1, the best on the validation range.")
    assert summary_of(measured(None, None), 0).startswith("2 seeds from 0 on. The model")
