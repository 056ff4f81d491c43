"""Attributions add up, are zero for what is not used, and depend on weights and on nothing but the payment."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from support.explain_networks import CONFIGS, ROWS, SMALL, loud_network, neutral_of, passage_of, payment_batch
from tsa.errors import ConfigError, DataError
from tsa.explain.baseline import Baseline
from tsa.explain.explanation import Explanation
from tsa.explain.integrated_gradients import Attribution, PathIntegrator, attribute
from tsa.explain.path import InputSite, InterpolationPath
from tsa.legacy.weights import reference_network
from tsa.model import Batch, ModelConfig, TSANetwork

GOLDEN = Path(__file__).parents[1] / "golden"


def flat(found: Attribution) -> np.ndarray:
    return np.concatenate([values.numpy().ravel() for values in found.at.values()])


def test_attributions_add_up(config: ModelConfig) -> None:
    found = attribute(passage_of(config))
    assert abs(found.residual) <= 0.01 * abs(found.total)
    assert found.residual == pytest.approx(found.score - found.baseline - flat(found).sum(), abs=1e-9)
    assert np.abs(flat(found)).sum() > 0.1


def test_legs_of_the_way_in_one_pass_are_as_each_alone(config: ModelConfig) -> None:
    stops, passage = [0.0, 0.1, 0.7, 1.0], passage_of(config)
    together = PathIntegrator(passage).legs(stops, 6)
    alone = [leg for ends in pairwise(stops) for leg in PathIntegrator(passage).legs(ends, 6)]
    assert [(leg.start, leg.end) for leg in together] == [(leg.start, leg.end) for leg in alone]
    for one, other in zip(together, alone, strict=True):
        for left, right in zip(one.slopes, other.slopes, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
        assert one.residual == pytest.approx(other.residual, abs=1e-5)


def test_attributions_of_a_network_trained_by_the_original_add_up() -> None:
    import json

    from safetensors.torch import load_file

    config = json.loads((GOLDEN / "two_sequence.config.json").read_text())
    network = reference_network(config, load_file(GOLDEN / "two_sequence.weights.safetensors"))
    network.config = network.config.replace(n_embedding=network.config.n_embedding)
    batch = payment_batch(ModelConfig(**{**network.config.to_dict()}))
    for history in batch.histories.values():
        history.categorical %= network.config.n_embedding - network.config.n_numerical
    neutral = Baseline(
        tuple(torch.tensor([1, 2]) for _ in range(network.config.n_categorical)),
        torch.zeros(network.config.n_numerical),
        torch.zeros(network.config.n_engineered),
    )
    found = attribute(InterpolationPath(network, batch, neutral))
    assert abs(found.total) > 0.01
    assert abs(found.residual) <= 0.01 * abs(found.total)


def test_a_history_that_the_gate_leaves_out_gets_nothing() -> None:
    """The network never looks at its events, on the whole way: their slopes are 0, and not missing."""
    config = ModelConfig(**SMALL, histories=("customer", "terminal"))
    network = loud_network(config)
    with torch.no_grad():
        network.combine.head.narrow.bias[1] -= 100
    found = attribute(InterpolationPath(network, payment_batch(config), neutral_of(config)))
    left_out = [values for place, values in found.at.items() if place.kind == "events" and place.history == 1]
    assert left_out
    assert all((values == 0).all() for values in left_out)
    assert abs(found.residual) <= 0.01 * abs(found.total)


def test_where_the_score_jumps_it_is_said_that_nothing_adds_up() -> None:
    """Experts that come in at a threshold: no slope tells of the step."""
    found = attribute(passage_of(ModelConfig(**SMALL, n_experts=3, expert_policy="threshold")))
    assert found.steps > 100, "it was tried"
    told = Explanation(
        id="p", time=None, scores={}, score=found.score, baseline=found.baseline, total=found.total,
        residual=found.residual, steps=found.steps, parts={}, reasons=(), features=(),
        histories=(),
    )  # fmt: skip
    assert told.adds_up == (abs(found.residual) <= 0.01 * abs(found.total))
    assert not replace(told, residual=0.011 * told.total).adds_up
    assert replace(told, residual=-0.009 * told.total).adds_up
    assert told.to_dict()["adds_up"] == told.adds_up


def without_feature(network: TSANetwork, column: int, config: ModelConfig) -> None:
    """All that reads a categorical feature is 0: its rows of the table, and whether events have the same value."""
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("table.weight"):
                value[ROWS * column + 1 : ROWS * (column + 1) + 1] = 0
            if name.endswith("match.weight") and column < config.n_match_features:
                value[:, column] = 0


@pytest.mark.parametrize("name", ["default", "reference, two histories", "factorised"])
def test_an_unused_feature_gets_nothing(name: str) -> None:
    config = ModelConfig(**{**SMALL, **CONFIGS[name]})
    network = loud_network(config)
    without_feature(network, 1, config)
    found = attribute(InterpolationPath(network, payment_batch(config), neutral_of(config)))
    for place, values in found.at.items():
        if place.kind in ("events", "gate"):
            assert (values[:, 1] == 0).all()
            assert (values[:, 0] != 0).any()
    assert found.at[InputSite("tokens")][1] == 0
    assert found.at[InputSite("tokens")][0] != 0


def test_a_network_that_does_not_know_outcomes_attributes_nothing_to_them(default: ModelConfig) -> None:
    network = loud_network(default)
    with torch.no_grad():
        for order in network.order:
            order.events.outcome.weight.zero_()
    found = attribute(InterpolationPath(network, payment_batch(default), neutral_of(default)))
    outcome = default.n_categorical + default.n_numerical + default.n_match_keys
    assert (found.at[InputSite("events", 0)][:, outcome] == 0).all()
    assert (found.at[InputSite("events", 0)][:, outcome + 1] == 0).all()  # age and biases: there all the way


def test_the_current_events_own_history_is_of_no_account_alone(default: ModelConfig) -> None:
    found = attribute(passage_of(default, {"customer": 1, "terminal": 1}))
    assert found.at[InputSite("presence", 0)].shape == (0,)
    assert abs(found.residual) <= 0.01 * abs(found.total)


@pytest.mark.parametrize("name", ["default", "reference, two histories"])
def test_random_weights_give_another_explanation(name: str) -> None:
    config = ModelConfig(**{**SMALL, **CONFIGS[name]})
    batch, neutral = payment_batch(config), neutral_of(config)
    networks = [loud_network(config) for _ in range(4)]
    first, *others = (flat(attribute(InterpolationPath(network, batch, neutral))) for network in networks)
    used = first != 0
    correlations = [spearmanr(first[used], other[used])[0] for other in others]
    assert abs(np.mean(correlations)) < 0.4
    assert max(correlations) < 0.7


def test_the_same_payment_gets_the_same_explanation(default: ModelConfig) -> None:
    config = default
    passage = passage_of(config)
    again = InterpolationPath(
        passage.network,
        Batch(dict(zip(config.histories, passage.histories, strict=True)), passage.engineered),
        neutral_of(config),
    )
    found = [attribute(passage), attribute(again)]
    assert np.array_equal(flat(found[0]), flat(found[1]))
    assert found[0].residual == found[1].residual


def test_a_sharp_turn_is_walked_in_short_steps(default: ModelConfig) -> None:
    """Numbers that go through zero without biases turn a normalised token around in a moment."""
    default = default.replace(n_match_keys=0)
    network = loud_network(default)
    with torch.no_grad():
        network.feature.bias.zero_()
        network.feature.engineered_bias.zero_()
    batch = payment_batch(default)
    for history in batch.histories.values():
        history.numerical[:, -1] = -3 * neutral_of(default).numerical - 0.1
    found = attribute(InterpolationPath(network, batch, neutral_of(default)))
    assert found.steps > 100
    assert abs(found.residual) <= 0.01 * abs(found.total)


def test_weights_and_gradients_of_the_network_are_left_alone(default: ModelConfig) -> None:
    network = loud_network(default)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    attribute(InterpolationPath(network, payment_batch(default), neutral_of(default)))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters())


def test_a_payment_without_a_score_is_refused(default: ModelConfig) -> None:
    network = loud_network(default)
    with torch.no_grad():
        network.classifier.narrow.bias.fill_(float("nan"))
    with pytest.raises(DataError, match="must get a number as score"):
        attribute(InterpolationPath(network, payment_batch(default), neutral_of(default)))


def test_without_captum_it_says_what_to_install(default: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ConfigError, match=r"pip install 'tsa-fraud\[explain\]'"):
        attribute(passage_of(default))
