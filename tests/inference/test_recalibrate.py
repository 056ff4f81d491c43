"""`tsa calibrate`: the same network with new percentiles and probabilities, by each method, of logs and of wire rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from support.legacy_folder import Original, wire_rows
from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.config.market import Market
from tsa.errors import CalibrationError, DataError
from tsa.inference.export_bundle import export_bundle
from tsa.inference.labelled_log import open_log
from tsa.inference.recalibrate import calibrate_bundle
from tsa.inference.scorer import Scorer
from tsa.integrations.sagemaker.serving import input_fn, model_fn, output_fn, predict_fn
from tsa.legacy.importer import import_legacy
from tsa.model.network_and_trees import ALONE

Tsa = Callable[..., Any]
METHODS = ("bspline", "isotonic", "platt", "beta")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def scored(bundle: Path, log: Path) -> tuple[pl.DataFrame, np.ndarray]:
    """Scores and labels of a log, in the same order."""
    scores = Scorer.load(bundle).score(log)
    labels = pl.read_parquet(log, columns=["payment_id", "is_fraud"])
    joined = scores.join(labels, left_on="id", right_on="payment_id", maintain_order="left")
    return scores, joined["is_fraud"].fill_null(-1).to_numpy()


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_a_bundle_that_scores(
    tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path, method: str
) -> None:
    bundle, out = demo_run / "bundle", tmp_path / ("new.tar.gz" if method == "beta" else "new")
    before = content(bundle)
    made = tsa("calibrate", bundle, demo_log, "--out", out, "--method", method)
    assert made.code == 0, made.err
    assert content(bundle) == before
    scores, labels = scored(bundle, demo_log)
    raw = scores["raw_score"].to_numpy()
    wanted = Calibration.fit(scores=raw, labels=labels, method=method)
    assert wanted.probability is not None
    counts = {"payments": len(labels), "labelled": int((labels >= 0).sum()), "frauds": int((labels == 1).sum())}
    for name, count in counts.items():
        assert wanted.counts[name] == count
        assert f"{count:,}" in made.out
    new = Bundle.open(out)
    assert new.calibration == wanted
    assert new.training["calibrated"] == {
        "bundle": Bundle.open(bundle).sha256,
        "files": [demo_log.name],
        "method": method,
        "from": None,
        "to": None,
        **counts,
    }
    found = Scorer.load(out).score(demo_log)
    np.testing.assert_array_equal(found["raw_score"], raw)
    np.testing.assert_array_equal(found["probability"], wanted.probability(raw))
    assert new.metrics is not None
    assert "calibration" not in new.metrics
    assert "note: metrics are too good on payments that the bundle was trained with" in made.err
    said = tsa("bundle", "diff", bundle, out).out
    assert f"→ {method}" in said
    assert "weights: the same" in said
    exported = tsa("legacy", "export-calibration", out, "--out", tmp_path / "files")
    assert (exported.code == 0) == (method == "bspline")


def test_the_range_of_training_gives_what_training_fitted(
    tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path
) -> None:
    """Point in time: the whole log is given, and the payments of the window see what they saw in training."""
    bundle = Bundle.open(demo_run / "bundle")
    assert bundle.data is not None
    first, last = (bundle.data["splits"]["calibration"][name] for name in ("start", "end"))
    stop = last.replace("+00:00", ".5+00:00")
    arguments = ("calibrate", demo_run / "bundle", demo_log, "--out", tmp_path / "new", "--from", first, "--to", stop)
    assert bundle.calibration is not None
    made = tsa(*arguments)
    if bundle.calibration.probability is None:  # too few payments there, in training as here
        assert made.code == 2
        assert str(bundle.calibration.reasons["probability"]) in made.err
        assert not (tmp_path / "new").exists()
        return
    assert made.code == 0, made.err
    assert Bundle.open(tmp_path / "new").calibration == bundle.calibration
    assert "looks better" not in made.err


def test_what_is_refused_leaves_nothing(tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(demo_run / "bundle", tmp_path / "bundle"))
    (tmp_path / "link").symlink_to(bundle)
    before, log = content(bundle), demo_log.read_bytes()
    few = pl.read_parquet(demo_log).sort("time" if "time" in pl.read_parquet(demo_log).columns else "paid_at").tail(900)
    few.write_parquet(tmp_path / "few.parquet")
    cases = {
        (demo_log, bundle): "--out must not be an input",
        (demo_log, bundle / "inside"): "must not be inside an input folder",
        (demo_log, tmp_path / "link"): "--out must not be an input",
        (tmp_path / "few.parquet", tmp_path / "few.parquet"): "--out must not be an input",
        (tmp_path / "few.parquet", tmp_path): "--out must not be a folder that contains",
        (tmp_path / "few.parquet", tmp_path / "out"): "at least 1,000 payments whose outcome is known, 10 frauds",
    }
    for (source, out), text in cases.items():
        made = tsa("calibrate", bundle, source, "--out", out)
        assert (made.code, text in made.err) == (2, True), made.err
    made = tsa("calibrate", bundle, demo_log, "--out", tmp_path / "out", "--method", "sampling")
    assert "method must be one of bspline, isotonic, platt, beta (got 'sampling')" in made.err
    made = tsa("calibrate", bundle, demo_log, "--out", tmp_path / "out", "--from", "2035-01-01")
    assert (made.code, "0 payments" in made.err) == (2, True)
    assert content(bundle) == before
    assert demo_log.read_bytes() == log
    assert not (tmp_path / "out").exists()


def test_a_graph_goes_along(demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = Path(shutil.copytree(demo_run / "bundle", tmp_path / "bundle"))
    export_bundle(bundle)
    calibrate_bundle(bundle, [demo_log], tmp_path / "new", method="platt")
    by_graph = Scorer.load(tmp_path / "new", engine="onnxruntime").score(demo_log)
    by_network = Scorer.load(tmp_path / "new").score(demo_log)
    for name in ("percentile", "probability"):
        np.testing.assert_allclose(by_graph[name], by_network[name], rtol=0, atol=1e-3)


@pytest.fixture
def imported(original: Original, payments: pl.DataFrame, tmp_path: Path) -> tuple[Path, Path]:
    """An imported bundle of rows that carry their own history, without percentiles; and 1,200 such rows, some of them fraud."""
    (original.folder / "percentile_score.pkl").unlink()
    wire = {"separator": "~", "missing": ["", "My Text String"], "numeric_categorical": ["c5"], "rules": "own"}
    history = [{"name": "customer", "length": original.config["seq_len"]}]
    market = Market.from_dict(original.market.to_dict() | {"wire": wire, "history": history})
    import_legacy(original.folder, market).save(tmp_path / "imported")
    more = payments.with_columns(pl.col("id") + 1000, pl.col("time") + 7, pl.col("customer") + 100)
    rows = pl.concat([wire_rows(original, payments), wire_rows(original, more)])
    raw = Scorer.load(tmp_path / "imported").score(_written(rows, tmp_path / "rows.csv.gz"))
    drawn = np.random.default_rng(3).random(len(raw)) < raw["raw_score"].to_numpy()
    label = pl.DataFrame({"id": raw["id"].cast(pl.String), "fraud": drawn.astype(int).astype(str)})
    rows = rows.drop("fraud").join(label, on="id", maintain_order="left")
    return tmp_path / "imported", _written(rows, tmp_path / "rows.csv.gz")


def _written(rows: pl.DataFrame, path: Path) -> Path:
    """As the legacy system writes them: separated by tabs, and called `.csv.gz`."""
    import gzip

    path.write_bytes(
        gzip.compress(rows.rename(lambda name: name.replace(".", "__DOT__")).write_csv(separator="\t").encode())
    )
    return path


def test_an_imported_model_on_wire_rows(tsa: Tsa, imported: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, rows = imported
    made = tsa("evaluate", bundle, "--log", rows, "--out", tmp_path / "ev", "--replicates", 20)
    assert made.code == 0, made.err
    report = json.loads((tmp_path / "ev" / "report.json").read_text())
    assert report["evaluation"]["n"] == 1200
    assert report["evaluation"]["threshold"] == 0.5
    assert report["calibration"]["method"] == "bspline"
    made = tsa("calibrate", bundle, rows, "--out", tmp_path / "new", "--method", "isotonic")
    assert made.code == 0, made.err
    scores = Scorer.load(tmp_path / "new").score(rows).with_columns(pl.col("id").cast(pl.String)).sort("id")
    assert scores.columns == ["id", "raw_score", "percentile", "probability"]
    # the endpoint answers an imported model's callers in the legacy system's words, calibrated anew or not
    with_dots = pl.read_csv(rows, separator="\t", infer_schema=False).rename(lambda name: name.replace("__DOT__", "."))
    some = with_dots.with_columns(pl.all().fill_null("")).sort("id").head(20)
    for path, names in ((bundle, ["legacy-score", "ProbabilityScore"]), (tmp_path / "new", None)):
        model = model_fn(str(path))
        body, _ = output_fn(
            predict_fn(input_fn(json.dumps(some.to_dicts()), "application/json"), model), "application/json"
        )
        said = json.loads(body)["predictions"]
        assert list(said[0]) == (names or ["score-percentile", "legacy-score", "ProbabilityScore"])
        if names is None:
            for column, name in (("percentile", "score-percentile"), ("probability", "ProbabilityScore")):
                found = [float(answer[name]) for answer in said]
                np.testing.assert_allclose(found, scores[column].head(20), rtol=0, atol=1e-6)


def test_a_percentile_that_cannot_be_fitted_is_refused(demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(demo_run / "bundle")
    network = bundle.network
    for parameter in network.parameters():
        parameter.data.zero_()
    replace(bundle, network=network, joining=ALONE["network"]).save(tmp_path / "flat")
    with pytest.raises(CalibrationError, match="percentiles need payments with different scores"):
        calibrate_bundle(tmp_path / "flat", [demo_log], tmp_path / "new")


def test_payments_without_a_score_are_set_aside_and_the_rest_counts(
    demo_run: Path, demo_log: Path, tmp_path: Path
) -> None:
    scorer = Scorer.load(demo_run / "bundle")
    network = scorer.engine

    class Deaf:
        name = "torch"
        rows = scorer.engine.rows
        calls = 0

        def __call__(self, batch: Any) -> np.ndarray:
            scores = np.array(network(batch))
            if not self.calls:
                scores[:3] = np.nan
            self.calls += 1
            return scores

    scorer.engine = Deaf()
    with open_log(scorer, [demo_log], quarantine=tmp_path / "aside.parquet") as log:
        assert len(log.payments) == len(log.scores) == len(log.store) - 3
        assert np.isfinite(log.scores).all()
        assert log.payments[0] == 3
    assert len(pl.read_parquet(tmp_path / "aside.parquet")) == 3
    scorer.engine = Deaf()
    with pytest.raises(DataError, match="scores must be finite"), open_log(scorer, [demo_log]):
        pass
