"""Trees in LightGBM's text format: the same numbers in every batch, contributions that add up, broken files refused."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from tsa.errors import ModelError
from tsa.model.boosted_trees import BoostedTrees

N = 2000


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(N, 4)).astype(np.float32)
    values[:, 3] = rng.integers(0, 40, N)
    values[rng.random((N, 4)) < 0.1] = np.nan
    return values


@pytest.fixture(scope="module")
def trees(values) -> BoostedTrees:
    label = (np.nan_to_num(values[:, 0]) + np.isin(values[:, 3], (3, 7, 11, 30)) > 1.0).astype(float)
    settings = {"objective": "binary", "num_leaves": 15, "verbosity": -1, "num_threads": 1, "min_data_per_group": 5}
    booster = lightgbm.train(settings, lightgbm.Dataset(values, label, categorical_feature=[3]), 20)
    assert "cat_threshold" in booster.model_to_string()
    return BoostedTrees(text=booster.model_to_string(), names=("a", "b", "c", "code"), shift=-1.5)


def test_log_odds_are_those_of_lightgbm_and_do_not_depend_on_the_batch(trees, values):
    booster = lightgbm.Booster(model_str=trees.text)
    together = trees.log_odds(values)
    assert np.array_equal(together, booster.predict(values, raw_score=True) - 1.5)
    alone = np.concatenate([trees.log_odds(values[at : at + 1]) for at in range(0, N, 50)])
    assert np.array_equal(alone, together[::50])
    assert np.array_equal(trees.log_odds(values[::-1]), together[::-1])
    assert trees.log_odds(values[:0]).shape == (0,)


def test_contributions_add_up_to_the_log_odds(trees, values):
    contributions = trees.contributions(values[:100])
    assert contributions.shape == (100, 5)
    assert np.allclose(contributions.sum(1), trees.log_odds(values[:100]), atol=1e-9)
    assert trees.gains().sum() == pytest.approx(1.0)


def test_other_columns_are_refused(trees, values):
    with pytest.raises(ModelError, match=r"the trees read [(]B, 4[)] numbers"):
        trees.log_odds(values[:, :3])
    with pytest.raises(ModelError, match="max_feature_idx=2"):
        BoostedTrees(text=trees.text, names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("split_feature=0", "split_feature=9"),
        ("left_child=1", "left_child=5000"),
        ("tree_sizes=", "tree_sizes=9"),
        ("num_leaves=15", "num_leaves=150"),
        ("num_class=1", "num_class=3"),
        ("cat_boundaries=0", "cat_boundaries=7"),
        ("is_linear=0", "is_linear=1"),
        ("end of trees", "end of nothing"),
        ("leaf_value=", "leaf_value=nan "),
        ("decision_type=", "decision_type=x"),
        ("leaf_weight=", "leaf_weight=1 "),
        ("split_gain=", "split_gain=1 "),
    ],
)
def test_a_file_that_would_lead_astray_is_refused(trees, old, new):
    assert old in trees.text
    with pytest.raises(ModelError):
        BoostedTrees(text=trees.text.replace(old, new), names=trees.names)


def test_what_is_no_model_is_refused():
    for text in ("", "tree\n", "hello\nTree=0\n"):
        with pytest.raises(ModelError, match="must be a text model of LightGBM"):
            BoostedTrees(text=text, names=("a",))
    with pytest.raises(ModelError, match="shift must be finite"):
        BoostedTrees(text="", names=(), shift=float("nan"))
