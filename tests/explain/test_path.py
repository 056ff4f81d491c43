"""A passage ends where the network is, and begins where the network is for a neutral payment without histories."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from support.explain_networks import CONFIGS, SMALL, loud_network, neutral_of, passage_of, payment_batch
from tsa.explain.path import InterpolationPath, log_odds
from tsa.model import Batch, History, ModelConfig
from tsa.model.fusion import GatedFusion, SoftmaxFusion

LENGTHS = {name: 2 + 3 * at for at, name in enumerate(("customer", "terminal", "history", "a", "b", "c"))}


def neutral_batch(config: ModelConfig) -> Batch:
    """The payment that `neutral_of` describes, with nothing before it."""
    neutral = neutral_of(config)
    rows = torch.tensor([int(row) for row in neutral.rows], dtype=torch.int64)
    history = History(
        categorical=rows.view(1, 1, -1),
        numerical=neutral.numerical.view(1, 1, -1),
        age_seconds=torch.zeros(1, 1),
        padding=torch.zeros(1, 1, dtype=torch.bool),
        outcome=torch.ones(1, 1, dtype=torch.int64),
        same_key=torch.ones(1, 1, config.n_match_keys, dtype=torch.bool),
    )
    engineered = neutral.engineered[None] if config.n_engineered else None
    return Batch(dict.fromkeys(config.histories, history), engineered)


def test_ends_are_scores_of_the_network(config: ModelConfig) -> None:
    network, batch = loud_network(config), payment_batch(config, LENGTHS)
    passage = InterpolationPath(network, batch, neutral_of(config))
    with torch.no_grad():
        assert_close(passage(*passage.actual), log_odds(network(batch)), atol=1e-5, rtol=1e-5)
        assert_close(passage(*passage.neutral), log_odds(network(neutral_batch(config))), atol=1e-5, rtol=1e-5)


def test_a_payment_without_histories(config: ModelConfig) -> None:
    network, batch = loud_network(config), payment_batch(config, dict.fromkeys(config.histories, 1))
    passage = InterpolationPath(network, batch, neutral_of(config))
    with torch.no_grad():
        assert_close(passage(*passage.actual), log_odds(network(batch)), atol=1e-5, rtol=1e-5)


def test_states_do_not_depend_on_each_other(config: ModelConfig) -> None:
    passage = passage_of(config)
    half = [(a + n) / 2 for a, n in zip(passage.actual, passage.neutral, strict=True)]
    both = [torch.cat([a, h]) for a, h in zip(passage.actual, half, strict=True)]
    with torch.no_grad():
        assert_close(passage(*both), torch.cat([passage(*passage.actual), passage(*half)]), atol=1e-5, rtol=1e-5)


def test_log_odds_are_those_of_the_probability() -> None:
    logits = torch.tensor([[1.0, 2.0], [0.5, -3.0]])
    assert_close(log_odds(logits), torch.logit(logits.softmax(-1)[:, 1]))
    three = torch.tensor([[1.0, 2.0, 0.3]])
    assert_close(log_odds(three), torch.logit(three.softmax(-1)[:, 1]))


@pytest.mark.parametrize("name", ["default", "reference, two histories"])
def test_importances_are_those_the_network_weighs_with(name: str) -> None:
    config = ModelConfig(**{**SMALL, **CONFIGS[name]})
    network, batch = loud_network(config), payment_batch(config)
    found = InterpolationPath(network, batch, neutral_of(config)).importances()
    combine = network.combine
    with torch.no_grad():
        histories = batch.ordered_histories(config)
        if isinstance(combine, SoftmaxFusion):
            orders = [order(h, network.table.weight) for order, h in zip(network.order, histories, strict=True)]
            expected = torch.softmax(combine.gate(torch.cat(orders, -1)), -1)[0]
        else:
            assert isinstance(combine, GatedFusion)
            expected = combine.importance(histories)[0]
    assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_history_that_the_gate_leaves_out_counts_for_nothing() -> None:
    config = ModelConfig(**{**SMALL, **CONFIGS["reference, two histories"]})
    alone = InterpolationPath(loud_network(config), payment_batch(config, {"terminal": 1}), neutral_of(config))
    importances = alone.importances()
    assert importances is not None
    assert importances[1] == 0
    skipping = config.replace(gate_threshold=0.99)
    network, batch = loud_network(skipping), payment_batch(skipping)
    passage = InterpolationPath(network, batch, neutral_of(skipping))
    importances = passage.importances()
    assert importances is not None
    assert importances[1] == 0
    with torch.no_grad():
        assert_close(passage(*passage.actual), log_odds(network(batch)), atol=1e-5, rtol=1e-5)


def test_one_history_is_all_that_counts_and_histories_side_by_side_have_no_weights() -> None:
    one = passage_of(ModelConfig(**{**SMALL, **CONFIGS["default, one history"]}))
    assert one.importances() is not None
    assert one.importances().tolist() == [1.0]  # type: ignore[union-attr]
    assert passage_of(ModelConfig(**{**SMALL, **CONFIGS["concatenated"]})).importances() is None


def test_attention_is_a_share_per_event(config: ModelConfig) -> None:
    passage = passage_of(config, LENGTHS)
    for history, attention in zip(passage.histories, passage.attention(), strict=True):
        assert attention.shape == history.padding.shape[1:]
        assert (attention >= 0).all()
        total = float(attention.sum())
        assert total == pytest.approx(1.0, abs=1e-5) if config.pooling == "last" else total < 1.0


def test_attention_is_that_of_the_last_pass(default: ModelConfig) -> None:
    """With one layer that attends evenly, whatever its query, each event gets the same."""
    network = loud_network(default.replace(n_order_layers=1))
    with torch.no_grad():
        for order in network.order:
            order.layers[0].attention.in_proj_weight[:16] = 0
            order.layers[0].attention.in_proj_bias[:16] = 0
            order.layers[0].attention.decay.fill_(-30.0)
    for attention in InterpolationPath(network, payment_batch(default), neutral_of(default)).attention():
        assert_close(attention, torch.full((6,), 1 / 6))
