from __future__ import annotations

import pytest
import torch

from tsa.errors import ConfigError
from tsa.model import History, ModelConfig, TSANetwork, preset
from tsa.model.embedding import SummedEvents

SIZES = {"n_categorical": 2, "n_numerical": 1, "n_embedding": 20}


def history() -> History:
    return History(
        categorical=torch.tensor([[[0, 0], [3, 9], [4, 9], [3, 8]]]),
        numerical=torch.tensor([[[0.0], [1.0], [2.0], [3.0]]]),
        age_seconds=torch.tensor([[0.0, 7200.0, 60.0, 0.0]]),
        padding=torch.tensor([[True, False, False, False]]),
    )


def test_events_tell_whether_they_have_the_current_value() -> None:
    events = SummedEvents(preset("default", **SIZES, n_matched=2))
    same = events.same(history())
    assert same.tolist() == [[[False, False], [True, False], [False, False], [True, True]]]


def test_only_the_leading_features_are_matched() -> None:
    events = SummedEvents(preset("default", **SIZES, n_matched=1))
    assert events.same(history()).shape == (1, 4, 1)
    assert SummedEvents(preset("default", **SIZES)).match is None


def test_what_stands_at_padding_is_not_read() -> None:
    network = TSANetwork(preset("default", **SIZES, n_matched=2, histories=("history",))).eval()
    clean, soiled = history(), history()
    soiled.numerical[0, 0] = 5.0
    soiled.age_seconds[0, 0] = 1e6
    soiled.categorical[0, 0] = torch.tensor([3, 8])
    events = network.order[0]
    with torch.inference_mode():
        assert torch.equal(events(clean, network.table.weight), events(soiled, network.table.weight))


def test_more_matched_than_categorical_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_matched=3, n_categorical=2"):
        preset("default", **SIZES, n_matched=3)
    with pytest.raises(ConfigError, match="n_matched"):
        ModelConfig(n_categorical=2, n_numerical=1, n_embedding=20, n_matched=1)
