"""Two bundles on the same payments: paired differences, decisions, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from support.endpoint import WIRE, made_bundle
from tsa.bundle.bundle import Bundle, set_decision_policy
from tsa.errors import ConfigError, DataError
from tsa.evaluation.compare_bundles import compare_bundles
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import ALONE

Tsa = Callable[..., Any]


@pytest.fixture(scope="module")
def bundles(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trained network, and the same with random weights; both with decisions."""
    folder = tmp_path_factory.mktemp("bundles")
    trained = folder / "trained"
    bundle = replace(Bundle.open(demo_run / "bundle"), trees=None, joining=ALONE["network"], graphs={}, sha256=None)
    bundle.save(trained)
    torch.manual_seed(0)
    network = type(bundle.network)(bundle.config).eval()
    replace(bundle, network=network).save(folder / "random")
    for path in (trained, folder / "random"):
        set_decision_policy(path, ["review=0.5"], score="raw_score")
    return trained, folder / "random"


def test_the_better_bundle_is_named(bundles: tuple[Path, Path], demo_log: Path, demo_run: Path) -> None:
    compared = compare_bundles(*bundles, [demo_log], start="2025-04-10")
    log = pl.read_parquet(demo_log).select(id="payment_id", label="is_fraud").drop_nulls()
    scores = [Scorer.load(path).score(demo_log, start="2025-04-10").join(log, on="id") for path in bundles]
    label = scores[0]["label"].to_numpy()
    for name, measure in (("average_precision", average_precision_score), ("roc_auc", roc_auc_score)):
        values = compared["metrics"][name]
        expected = [measure(label, some["raw_score"].to_numpy()) for some in scores]
        assert [values["a"], values["b"]] == pytest.approx(expected, abs=1e-9)
        assert values["difference"] == pytest.approx(expected[0] - expected[1], abs=1e-9)
        assert values["verdict"] == "a better"
    assert (compared["payments"], compared["frauds"]) == (len(label), label.sum())
    assert compared["only_in"] == {"a": 0, "b": 0}
    assert "average precision" in compared["summary"]
    assert "A is better" in compared["summary"]
    assert compared["start"] >= "2025-04-10"


def test_it_is_the_other_way_round_the_other_way_round(bundles: tuple[Path, Path], demo_log: Path) -> None:
    forth, back = (
        compare_bundles(*pair, [demo_log], start="2025-04-10", replicates=50) for pair in (bundles, bundles[::-1])
    )
    for name, values in forth["metrics"].items():
        other = back["metrics"][name]
        assert values["difference"] == -other["difference"]
        assert (values["low"], values["high"]) == pytest.approx((-other["high"], -other["low"]))


def test_a_bundle_is_not_better_than_itself(bundles: tuple[Path, Path], demo_log: Path) -> None:
    compared = compare_bundles(bundles[0], bundles[0], [demo_log], replicates=50)
    assert {values["difference"] for values in compared["metrics"].values()} == {0.0}
    assert "no clear difference" in compared["summary"]
    assert compared["psi"] == 0.0
    assert all(row["a"] == row["b"] for row in compared["decisions"])
    assert sum(row["payments"] for row in compared["decisions"]) == compared["payments"]


def test_payments_that_were_learned_from_are_warned_of(bundles: tuple[Path, Path], demo_log: Path) -> None:
    compared = compare_bundles(*bundles, [demo_log], replicates=0)
    assert "metrics are too good on payments that the bundle was trained with" in compared["bundles"]["a"]["note"]


def test_bundles_without_decisions_have_no_table_of_them(
    bundles: tuple[Path, Path], demo_run: Path, demo_log: Path
) -> None:
    assert compare_bundles(bundles[0], demo_run / "bundle", [demo_log], replicates=0)["decisions"] is None


def test_bundles_of_two_markets_are_refused(bundles: tuple[Path, Path], demo_log: Path, tmp_path: Path) -> None:
    other = made_bundle(tmp_path / "wire", WIRE)
    with pytest.raises(ConfigError, match="both bundles must be of one market"):
        compare_bundles(bundles[0], other, [demo_log])


def test_a_log_without_outcomes_is_refused(bundles: tuple[Path, Path], demo_log: Path, tmp_path: Path) -> None:
    unknown = pl.read_parquet(demo_log).with_columns(is_fraud=pl.lit(None, pl.Int8))
    unknown.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="must contain payments whose outcome is known"):
        compare_bundles(*bundles, [tmp_path / "log.parquet"])


def test_the_command(tsa: Tsa, bundles: tuple[Path, Path], demo_log: Path, tmp_path: Path) -> None:
    out = tmp_path / "compared.json"
    done = tsa("compare-bundles", *bundles, demo_log, "--from", "2025-04-10", "--out", out)
    assert done.code == 0, done.err
    for text in ("average_precision", "A is better", "decision of A", "PSI of the raw scores"):
        assert text in done.out
    assert json.loads(out.read_text())["metrics"]["roc_auc"]["verdict"] == "a better"
    refused = tsa("compare-bundles", *bundles, demo_log, "--out", bundles[0] / "weights.safetensors")
    assert refused.code == 2
