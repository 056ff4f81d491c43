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
    events = SummedEvents(preset("default", **SIZES, n_match_features=2))
    same = events.same(history())
    assert same.tolist() == [[[False, False], [True, False], [False, False], [True, True]]]


def test_a_value_that_is_left_out_is_no_match() -> None:
    events, told = SummedEvents(preset("default", **SIZES, n_match_features=2)), history()
    told.categorical[..., 0] = 0
    assert not events.same(told)[..., 0].any()


def test_only_the_leading_features_are_matched() -> None:
    events = SummedEvents(preset("default", **SIZES, n_match_features=1))
    assert events.same(history()).shape == (1, 4, 1)
    assert SummedEvents(preset("default", **SIZES)).match is None


def test_keys_are_matched_after_the_features() -> None:
    events, told = SummedEvents(preset("default", **SIZES, n_match_features=1, n_match_keys=2)), history()
    told.same_key = torch.tensor([[[True, True], [False, False], [True, False], [True, True]]])
    same = events.same(told)
    assert same[..., 1:].tolist() == [[[False, False], [False, False], [True, False], [True, True]]]
    assert events(told, torch.randn(22, 64)).shape == (1, 4, 64)
    alone = SummedEvents(preset("default", **SIZES, n_match_keys=2))
    assert torch.equal(alone.same(told), same[..., 1:]), "without features"
    with pytest.raises(ConfigError, match="n_match_keys=1"):
        ModelConfig(n_categorical=2, n_numerical=1, n_embedding=20, n_match_keys=1)


def test_what_stands_at_padding_is_not_read() -> None:
    network = TSANetwork(preset("default", **SIZES, n_match_features=2, histories=("history",))).eval()
    clean, soiled = history(), history()
    soiled.numerical[0, 0] = 5.0
    soiled.age_seconds[0, 0] = 1e6
    soiled.categorical[0, 0] = torch.tensor([3, 8])
    events = network.order[0]
    with torch.inference_mode():
        assert torch.equal(events(clean, network.table.weight), events(soiled, network.table.weight))


def test_marks_go_in_as_they_are() -> None:
    """They need no distances and no waves: what those would cost is saved."""
    plain = SummedEvents(preset("default", **SIZES))
    marked = SummedEvents(preset("default", **{**SIZES, "n_numerical": 3}, n_missing_indicators=2))
    assert marked.frequency.shape == plain.frequency.shape
    assert marked.linear.in_features == plain.linear.in_features + 2
    told = history()
    marks = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]])
    told.numerical = torch.cat([told.numerical, marks], dim=-1)
    numbers = marked.numbers(told)
    assert torch.equal(numbers[..., :-2], plain.numbers(history()))
    assert numbers[0, :, -2:].tolist() == [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]


def test_each_mark_moves_its_events_by_its_own_weights() -> None:
    events = SummedEvents(preset("default", **{**SIZES, "n_numerical": 2}, n_missing_indicators=1))
    without, with_ = torch.zeros(1, 1, 6), torch.zeros(1, 1, 6)
    with_[..., -1] = 1.0
    moved = events.of_numbers(with_) - events.of_numbers(without)
    torch.testing.assert_close(moved[0, 0], events.linear.weight[:, 5])


def test_more_marks_than_numerical_or_in_another_embedding_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_missing_indicators=2, n_numerical=1"):
        preset("default", **SIZES, n_missing_indicators=2)
    with pytest.raises(ConfigError, match="n_missing_indicators"):
        ModelConfig(n_categorical=2, n_numerical=1, n_embedding=20, n_missing_indicators=1)


def test_more_matched_than_categorical_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_match_features=3, n_categorical=2"):
        preset("default", **SIZES, n_match_features=3)
    with pytest.raises(ConfigError, match="n_match_features"):
        ModelConfig(n_categorical=2, n_numerical=1, n_embedding=20, n_match_features=1)


def test_training_does_the_same_without_work_for_padding() -> None:
    """In values and gradients, to rounding; padding gets no value and gives no gradient."""
    torch.manual_seed(0)
    events = SummedEvents(preset("default", **SIZES, n_match_features=2, known_outcomes=True))
    table = torch.nn.Parameter(torch.randn(22, 64))
    padding = torch.rand(5, 7) < 0.5
    padding[:, -1] = False
    shown = (~padding).unsqueeze(-1)
    several = History(
        categorical=torch.randint(1, 20, (5, 7, 2)) * shown,
        numerical=torch.randn(5, 7, 1) * shown,
        age_seconds=torch.rand(5, 7) * 1e6,
        padding=padding,
        outcome=torch.randint(1, 4, (5, 7)) * shown[..., 0],
    )
    towards = torch.randn(5, 7, 64) * shown

    def found() -> list[torch.Tensor]:
        events.zero_grad()
        table.grad = None
        out = events(several, table)
        (out * towards).sum().backward()
        assert table.grad is not None
        gradients = [p.grad.clone() for p in events.parameters() if p.grad is not None]
        return [out.detach() * shown, table.grad.clone(), *gradients]

    learning, scoring = found(), [events.eval(), found()][1]
    assert len(learning) == len(scoring) > 8
    for one, other in zip(learning, scoring, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert not events.train()(several, table)[padding].any()
