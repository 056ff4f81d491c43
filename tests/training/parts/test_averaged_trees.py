"""Averaged trees: the mean of the models' log odds, in values and contributions, as one text."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsa.errors import ModelError
from tsa.model.boosted_trees import BoostedTrees
from tsa.training.parts.averaged_trees import averaged, short_threshold

N, NAMES = 1000, ("a", "b", "c", "code")


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(N, 4)).astype(np.float32)
    values[:, 3] = rng.integers(0, 40, N)
    values[rng.random((N, 4)) < 0.1] = np.nan
    return values


def text_of(values: np.ndarray, seed: int, rounds: int = 12, **settings: object) -> str:
    label = (np.nan_to_num(values[:, 0]) + np.isin(values[:, 3], (3, 7, 11, 30)) > 1.0).astype(float)
    settings = {"objective": "binary", "num_leaves": 8, "verbosity": -1, "num_threads": 1, **settings}
    settings |= {"feature_fraction": 0.5, "feature_fraction_seed": seed, "min_data_per_group": 5}
    return str(
        lightgbm.train(settings, lightgbm.Dataset(values, label, categorical_feature=[3]), rounds).model_to_string()
    )


def trees_of(text: str) -> BoostedTrees:
    return BoostedTrees(text=text, names=NAMES)


def test_log_odds_and_contributions_are_the_mean(values: np.ndarray) -> None:
    texts = [text_of(values, seed, rounds) for seed, rounds in ((1, 5), (2, 12), (3, 1))]
    models, together = [trees_of(text) for text in texts], trees_of(averaged(texts))
    assert together.n_trees == 18
    assert "cat_threshold" in together.text
    spread = np.std([model.log_odds(values) for model in models], axis=0)
    assert spread.max() > 0.1, "the models differ"
    np.testing.assert_allclose(
        together.log_odds(values), np.mean([m.log_odds(values) for m in models], axis=0), atol=1e-8
    )
    contributions = np.mean([model.contributions(values[:50]) for model in models], axis=0)
    np.testing.assert_allclose(together.contributions(values[:50]), contributions, atol=1e-8)
    assert together.gains().sum() == pytest.approx(1.0)
    assert not any(name in together.text for name in ("leaf_weight", "internal_weight", "internal_value"))


def test_trees_without_a_split(values: np.ndarray) -> None:
    """With too few rows for two leaves a tree is one constant."""
    texts = [text_of(values, seed, rounds=2, min_child_samples=N) for seed in (1, 2)]
    np.testing.assert_allclose(trees_of(averaged(texts)).log_odds(values), trees_of(texts[0]).log_odds(values))


def test_one_model_is_itself(values: np.ndarray) -> None:
    text = text_of(values, 1)
    assert averaged([text]) == text


def test_others_are_refused(values: np.ndarray) -> None:
    text = text_of(values, 1)
    with pytest.raises(ModelError, match="must read the same columns"):
        averaged([text, text_of(values[:, [0, 0, 1, 2, 3]][:, 1:], 1).replace("Column_3", "other")])
    with pytest.raises(ModelError, match="must be a text model"):
        averaged([text, "nothing"])
    with pytest.raises(ModelError, match="leaf_value of the trees must hold numbers"):
        averaged([text, text.replace("leaf_value=", "leaf_value=x ", 1)])


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False))
def test_no_number_falls_on_the_other_side_of_a_shortened_threshold(threshold: float, number: float) -> None:
    short = short_threshold(threshold)
    with np.errstate(over="ignore"):
        nearest = np.float32(threshold)
    for value in (number, float(nearest), *map(float, np.nextafter(nearest, np.float32([-np.inf, np.inf])))):
        assert (value <= float(short)) == (value <= threshold)
    assert len(short) <= len(repr(threshold))


def test_thresholds_have_few_digits() -> None:
    values = (0.1, 41.500000000000007, 1.0000000180025095e-35, -3.0)
    assert [short_threshold(value) for value in values] == ["0.1", "41.5", "1.00000002e-35", "-3.0"]
