"""`tsa legacy import`, `tsa legacy export-calibration` and three scores from `tsa score`, as a user runs them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from support.legacy_folder import Original, market_toml
from tsa.bundle.bundle import Bundle

Tsa = Callable[..., Any]


@pytest.fixture
def market(original: Original, tmp_path: Path) -> Path:
    path = tmp_path / "market.toml"
    path.write_text(market_toml(original.market))
    return path


def test_from_the_original_to_scores_and_back(
    tsa: Tsa, original: Original, payments: pl.DataFrame, market: Path, tmp_path: Path
) -> None:
    bundle, log, out = tmp_path / "bundle", tmp_path / "log.parquet", tmp_path / "scores.csv"
    made = tsa("legacy", "import", original.folder, "--market", market, "--out", bundle)
    assert made.code == 0, made.err
    assert (
        made.out
        == f"{bundle}: {sum(p.numel() for p in Bundle.open(bundle).network.parameters()):,} parameters, history: customer\n"
    )
    payments.write_parquet(log)
    made = tsa("score", bundle, log, "--out", out)
    assert (made.code, made.out) == (0, f"{out}: 600 payments\n"), made.err
    assert pl.read_csv(out).columns == ["id", "raw_score", "percentile", "probability"]
    made = tsa("legacy", "export-calibration", bundle, "--out", tmp_path / "back")
    assert made.code == 0, made.err
    assert (
        pickle.loads((tmp_path / "back" / "percentile_score.pkl").read_bytes()) == original.scores["percentile_score"]
    )
    assert (
        json.loads((tmp_path / "back" / "bspline_parameters.json").read_text()) == original.scores["bspline_parameters"]
    )


def test_a_refusal_lists_everything_and_writes_nothing(
    tsa: Tsa, original: Original, market: Path, tmp_path: Path
) -> None:
    (original.folder / "cat_to_index.json").unlink()
    (original.folder / "best.pt").write_bytes(pickle.dumps(print))
    bundle = tmp_path / "bundle"
    made = tsa("legacy", "import", original.folder, "--market", market, "--out", bundle, "--set", "history.0.length=9")
    assert (made.code, made.out) == (2, "")
    assert made.err.startswith(f"error: ArtefactError: {original.folder}: 3 findings\n")
    for text in (
        "cat_to_index.json is missing",
        "best.pt cannot be read as weights",
        "length must be seq_len=12 (got 9",
    ):
        assert text in made.err
    assert not bundle.exists()


def test_what_the_folder_lacks_is_said_and_can_be_given(
    tsa: Tsa, original: Original, market: Path, tmp_path: Path
) -> None:
    (original.folder / "percentile_score.pkl").unlink()
    path, bundle = original.folder / "preprocessor.pkl", tmp_path / "bundle"
    table = pickle.loads(path.read_bytes())
    table |= {name: [*table[name], 0.0] for name in ("num_static_scale_", "num_static_min_")}
    path.write_bytes(pickle.dumps(table))
    count = len(original.market.features.engineered)
    arguments = ("legacy", "import", original.folder, "--market", market, "--out", bundle)
    assert "--leave-out engineered=P,P" in tsa(*arguments).err
    made = tsa(*arguments, "--leave-out", f"engineered={count}")
    assert made.code == 0, made.err
    assert "note: There is no percentile score: the imported folder had no percentile_score.pkl" in made.err
    assert f"note: num_static_scale_: 1 of {count + 1} numbers are left out, at [{count}]" in made.err
    for wrong in ("266,267", "static=1", "engineered=x"):
        found = tsa(*arguments, "--leave-out", wrong)
        assert (found.code, f"(got '{wrong}')" in found.err) == (2, True)


def test_files_named_on_the_command_line(tsa: Tsa, original: Original, market: Path, tmp_path: Path) -> None:
    weights = (original.folder / "best.pt").rename(tmp_path / "elsewhere.pt")
    (original.folder / "more.json").write_text("{}")
    arguments = ("legacy", "import", original.folder, "--market", market, "--out", tmp_path / "bundle", "-q")
    named = ("--weights", weights, "--config", original.folder / "config.json")
    assert tsa(*arguments).code == 2
    made = tsa(*arguments, *named)
    assert (made.code, made.err) == (0, "")


def test_a_bundle_without_calibration_has_nothing_to_export(tsa: Tsa, demo_run: Path, tmp_path: Path) -> None:
    replace(Bundle.open(demo_run / "bundle"), calibration=None).save(tmp_path / "bundle")
    made = tsa("legacy", "export-calibration", tmp_path / "bundle", "--out", tmp_path / "out")
    assert made.code == 2
    assert "CalibrationError: the legacy system's files need a percentile or a probability map" in made.err


@pytest.mark.parametrize("command", ["import", "export-calibration"])
def test_help_teaches(tsa: Tsa, command: str) -> None:
    made = tsa("legacy", command, "--help")
    assert made.code == 0
    assert "--quiet" in made.out
    assert len(made.out.split()) > 40
