"""Graphs of trees: no payment takes another branch than in LightGBM, and with the network they give the score."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pytest

from tsa.bundle.bundle import Bundle
from tsa.bundle.graphs import refuse_outside
from tsa.errors import ModelError
from tsa.inference import onnx_trees
from tsa.inference.engine import named_inputs
from tsa.inference.export_bundle import export_bundle
from tsa.inference.onnx_trees import columns_at_splits, export_trees, run_trees, verify_trees
from tsa.inference.scorer import Scorer
from tsa.model.boosted_trees import BoostedTrees, tree_fields
from tsa.model.collate import gather_batch

KINDS: dict[str, dict[str, Any]] = {
    "usual": {},
    "no missing values in training": {"use_missing": False},
    "many leaves": {"num_leaves": 63, "min_child_samples": 3},
    "nothing to learn": {"min_child_samples": 1500},
}


@pytest.fixture(scope="module", params=KINDS)
def trees(request: pytest.FixtureRequest) -> BoostedTrees:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 5)).astype(np.float32)
    values[:, 1] = np.round(values[:, 1], 1)
    values[:, 2] *= 1e-36 if request.param == "many leaves" else 1e6
    values[:, 3] = rng.integers(0, 90, 2000)
    if request.param != "no missing values in training":
        values[rng.random((2000, 5)) < 0.1] = np.nan
    odds = np.nan_to_num(values[:, 0] + values[:, 1]) + 2 * np.isin(values[:, 3], (3, 7, 11, 30, 33, 64, 88))
    settings = {"objective": "binary", "num_leaves": 15, "verbosity": -1, "num_threads": 1, "min_data_per_group": 5}
    data = lightgbm.Dataset(values, (odds > 1).astype(float), categorical_feature=[3])
    text = lightgbm.train({**settings, **KINDS[request.param]}, data, 40).model_to_string()
    return BoostedTrees(text=text, names=("a", "b", "c", "code", "e"), shift=-1.5)


def test_every_split_is_that_of_lightgbm(trees: BoostedTrees) -> None:
    """Values at the thresholds and next to them, codes in no set, 0, missing and infinite values: the same doubles."""
    graph = export_trees(trees)
    refuse_outside(graph, "trees.onnx")
    columns = columns_at_splits(trees, 5000)
    columns[0], columns[1], columns[2], columns[3] = np.nan, np.inf, -np.inf, 1e-36
    assert np.isnan(columns).any(axis=0).all()
    np.testing.assert_allclose(run_trees(graph, columns), trees.log_odds(columns), rtol=0, atol=1e-12)
    assert verify_trees(graph, trees, columns) <= 1e-12
    alone = np.concatenate([run_trees(graph, columns[at : at + 1]) for at in range(20)])
    assert np.array_equal(alone, run_trees(graph, columns)[:20])
    assert len(run_trees(graph, columns[:0])) == 0


def test_thresholds_are_tried_on_both_sides(trees: BoostedTrees, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with thresholds as the nearest float32 is noticed: some payments would take the other branch."""
    columns = columns_at_splits(trees, 5000)
    if np.ptp(trees.log_odds(columns)) == 0:
        pytest.skip("trees that never split")

    def rounded(text: str) -> Iterator[dict[str, str]]:
        for tree in tree_fields(text):
            codes = [int(kind) & 1 for kind in tree.get("decision_type", "").split()]
            values = zip(tree.get("threshold", "").split(), codes, strict=True)
            moved = [value if code else repr(float(np.float32(value))) for value, code in values]
            yield {**tree, "threshold": " ".join(moved)}

    monkeypatch.setattr(onnx_trees, "tree_fields", rounded)
    graph = export_trees(trees)
    with pytest.raises(ModelError, match="must agree with LightGBM"):
        verify_trees(graph, trees, columns)


def test_another_graph_is_refused(trees: BoostedTrees) -> None:
    shifted = BoostedTrees(text=trees.text, names=trees.names, shift=-1.4999)
    with pytest.raises(ModelError, match="must agree with LightGBM to 1e-06 in log odds"):
        verify_trees(export_trees(shifted), trees, columns_at_splits(trees, 10))


def test_zeros_as_missing_are_refused() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 1)) * (rng.random((500, 1)) < 0.5)
    settings = {"objective": "binary", "verbosity": -1, "num_threads": 1, "zero_as_missing": True}
    text = lightgbm.train(settings, lightgbm.Dataset(values, values[:, 0] > 0), 3).model_to_string()
    with pytest.raises(ModelError, match="treat zeros as missing"):
        export_trees(BoostedTrees(text=text, names=("a",)))


def test_both_graphs_and_the_weights_give_the_score(bundle_path: Path, demo_log: Path, tmp_path: Path) -> None:
    """As docs/reference/bundle.md says it, with the files of the bundle alone."""
    copy = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    made = export_bundle(copy, log=demo_log, copy=tmp_path / "copy.onnx")  # with the graphs that it has
    assert made.trees is not None
    assert made.trees.compared > 10_000
    assert made.trees.log_odds <= 1e-6
    bundle = Bundle.open(copy)
    assert set(bundle.graphs) == {"float32", "trees"}
    assert bundle.sha256 == Bundle.open(bundle_path).sha256
    assert (tmp_path / "copy.onnx").read_bytes() == bundle.graphs["float32"]
    assert (tmp_path / "copy.trees.onnx").read_bytes() == bundle.graphs["trees"]
    joining, scorer = json.loads((copy / "parts.json").read_text())["joining"], Scorer(bundle)
    with scorer.encoded(demo_log) as store:
        rows = np.arange(0, len(store), 10)
        wanted = scorer.model.log_odds_of_store(store, rows, ("network", "trees"))
        assert bundle.trees is not None
        inputs = {
            "model.onnx": named_inputs(gather_batch(store, rows)),
            "trees.onnx": {"columns": bundle.trees.columns.of_store(store, rows)},
        }
    found = {}
    for name, feed in inputs.items():
        session = onnxruntime.InferenceSession(copy / name, providers=["CPUExecutionProvider"])
        needed = {entry.name for entry in session.get_inputs()}
        found[name] = session.run(["log_odds"], {key: value for key, value in feed.items() if key in needed})[0]
    network, trees = (found[name].astype(float) for name in ("model.onnx", "trees.onnx"))
    log_odds = joining["intercept"] + joining["network"] * network + joining["trees"] * trees
    assert joining["network"] > 0 < joining["trees"]
    np.testing.assert_allclose(trees, wanted["trees"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(network, wanted["network"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_odds, bundle.joining(wanted), rtol=1e-5, atol=1e-5)
