"""Trees and network as one model: trained, joined, written and read back; the same bits each time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from support.easy_log import TINY, settings
from tsa.bundle.bundle import Bundle
from tsa.bundle.manifest import PARTS, TREES
from tsa.data.store.store import EventStore
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import ALONE, MEAN
from tsa.model.tree_model import TreeModel
from tsa.training import train
from tsa.training.parts import trees
from tsa.training.parts.trees import fit_trees

FORMS = ("network", "trees", "combined")


@pytest.mark.parametrize("parts", ["auto", "combined", "trees"])
def test_scores_of_the_ranges_are_those_of_the_bundle(easy_store: EventStore, tmp_path: Path, parts: str) -> None:
    train(easy_store, tmp_path / "run", model={**TINY, "parts": parts}, training=settings(epochs=1))
    bundle = Bundle.open(tmp_path / "run" / "bundle")
    assert bundle.trees is not None
    assert bundle.choice["form"] in FORMS
    assert parts == "auto" or bundle.choice["form"] == parts
    assert parts != "trees" or bundle.joining == ALONE["trees"]
    for name in ("validation", "calibration"):
        rows = np.arange(easy_store.split(name).start, easy_store.split(name).stop)
        written = pl.read_parquet(tmp_path / "run" / f"{name}_scores.parquet")["raw_score"]
        np.testing.assert_array_equal(written, Scorer(bundle).score_rows(easy_store, rows))


def test_a_run_gives_the_same_bundle_each_time(easy_store: EventStore, tmp_path: Path) -> None:
    files = []
    for name in ("one", "other"):
        train(easy_store, tmp_path / name, model={**TINY, "parts": "combined"}, training=settings(epochs=1))
        folder = tmp_path / name / "bundle"
        files.append({file: (folder / file).read_bytes() for file in (TREES, PARTS, "weights.safetensors")})
    assert files[0] == files[1]


def test_a_network_alone_has_no_trees(easy_store: EventStore, tmp_path: Path) -> None:
    bundle = train(easy_store, tmp_path / "run", model={**TINY, "parts": "network"}, training=settings(epochs=1))
    assert bundle.trees is None
    assert bundle.joining == ALONE["network"]
    assert not (tmp_path / "run" / "bundle" / TREES).exists()


@pytest.mark.parametrize(
    ("train_on", "joined_on"),
    [(("train", "validation"), "calibration"), (("train", "validation", "calibration"), None)],
)
def test_weights_are_never_fitted_on_what_was_learned_from(
    easy_store: EventStore, tmp_path: Path, train_on: tuple[str, ...], joined_on: str | None
) -> None:
    config = settings(epochs=1, train_on=train_on, early_stopping=False)
    bundle = train(easy_store, tmp_path / "run", model={**TINY, "parts": "combined"}, training=config)
    if joined_on is None:
        assert bundle.joining == MEAN
        assert bundle.choice["payments"] == 0
    else:
        assert bundle.choice["payments"] == len(easy_store.labelled(joined_on))


def test_trees_end_in_time(easy_store: EventStore) -> None:
    """With the trees that there are, at least one; without a limit they are those of an unlimited training."""
    rows = [easy_store.labelled(name) for name in ("train", "validation")]
    texts = {}
    for seconds in (0.0, 3600.0, math.inf):
        for validation in (rows[1], rows[1][:0]):
            fitted = fit_trees(
                easy_store, rows[0], validation, seed=0, threads=1, n_ensemble=2, max_rounds=40, seconds=seconds
            )
            texts[seconds, len(validation)] = fitted.trees.text
            assert seconds or fitted.trees.n_trees <= 2
            assert np.isfinite(fitted.of_store(easy_store, rows[0][:5])).all()
    for n in (0, len(rows[1])):
        assert texts[3600.0, n] == texts[math.inf, n]


@pytest.mark.parametrize(("few", "metric"), [(0, "average_precision"), (10**9, "binary_logloss")])
def test_few_later_frauds_end_training_by_log_loss(
    easy_store: EventStore, monkeypatch: pytest.MonkeyPatch, few: int, metric: str
) -> None:
    monkeypatch.setattr(trees, "FEW_CASES", few)
    rows = [easy_store.labelled(name) for name in ("train", "validation")]
    fitted = trees.fit_trees(easy_store, *rows, seed=0, threads=1, max_rounds=3)
    assert f"[metric: {metric}]" in fitted.trees.text


def test_deep_trees_are_used_where_they_rank_few_frauds_better(
    easy_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "FEW_CASES", 10**9)
    rows = [easy_store.labelled(name) for name in ("train", "validation")]
    given = {"seed": 0, "threads": 1, "n_ensemble": 2, "max_rounds": 5}
    fitted, plain, one_deep = (trees.fit_trees(easy_store, *rows, n_deep=n, **given) for n in (None, 0, 1))
    label = np.asarray(easy_store.label[rows[1]])
    precision = [average_precision_score(label, one.of_store(easy_store, rows[1])) for one in (plain, one_deep)]
    best = one_deep if precision[1] > precision[0] else plain
    assert fitted.trees.text == best.trees.text
    assert [one.n_deep for one in (plain, one_deep, fitted)] == [0, 1, best.n_deep]
    assert TreeModel.read(one_deep.trees.text, one_deep.to_dict()).n_deep == 1
    assert trees.fit_trees(easy_store, *rows, n_deep=2, n_trees=3, **given).trees.n_trees == 6
    monkeypatch.setattr(trees, "FEW_CASES", 0)
    assert trees.fit_trees(easy_store, *rows, **given).n_deep == 0
