from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tsa.errors import ModelError
from tsa.model import Batch, History, TSANetwork, preset

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def padded(history: History, extra: int) -> History:
    features = (0, 0, extra, 0)
    return History(
        categorical=functional.pad(history.categorical, features),
        numerical=functional.pad(history.numerical, features),
        age_seconds=functional.pad(history.age_seconds, (extra, 0)),
        padding=functional.pad(history.padding, (extra, 0), value=True),
        outcome=functional.pad(history.outcome, (extra, 0)),
        same_key=functional.pad(history.same_key, features),
    )


def test_shapes_and_a_training_step(config, make_batch):
    network, batch = TSANetwork(config), make_batch(config)
    assert network.embed(batch).shape == (6, config.ensemble_width)
    loss = functional.cross_entropy(network(batch), torch.tensor([0, 1] * 3)) + network.auxiliary_loss()
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert not network.table.weight.grad[0].any()
    assert {"classifier.widen.weight", "order.0.layers.0.norm1.weight"} <= set(gradients)


@QUICK
@given(extra=st.integers(1, 20), data=st.data())
def test_extra_padding_changes_no_score(config, make_batch, extra, data):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    wider = {
        name: padded(h, extra if i == 0 else data.draw(st.integers(0, 20)))
        for i, (name, h) in enumerate(batch.histories.items())
    }
    torch.testing.assert_close(network(Batch(wider, batch.engineered)), network(batch), atol=1e-6, rtol=1e-6)


@QUICK
@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_a_score_does_not_depend_on_its_batch(config, make_batch, rows):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    index = torch.tensor(rows)
    torch.testing.assert_close(network(batch.rows(index)), network(batch)[index], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("value", [7.0, math.nan, math.inf])
def test_what_stands_at_padding_changes_no_score(config, make_batch, value):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    expected = network(batch)
    for history in batch.histories.values():
        history.age_seconds[history.padding] = 5e8
        history.numerical[history.padding] = value
        history.categorical[history.padding] = 1
        history.outcome[history.padding] = 2
        history.same_key[history.padding] = True
    torch.testing.assert_close(network(batch), expected, atol=1e-6, rtol=1e-6)


def test_an_encoding_tells_of_ages_that_nothing_else_tells_of(small, make_batch):
    for encoded in (False, True):
        config = small(time_attention="none", time_encoding=encoded)
        network, batch = TSANetwork(config).eval(), make_batch(config)
        older = batch.histories["history"].age_seconds * 2
        aged = Batch({"history": replace(batch.histories["history"], age_seconds=older)}, batch.engineered)
        assert torch.equal(network(aged), network(batch)) != encoded


def test_evaluation_is_deterministic(config, make_batch):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    assert torch.equal(network(batch), network(batch))


@pytest.mark.parametrize("max_age", [1e7, 1e9])
def test_great_ages_give_finite_scores_and_gradients(config, make_batch, max_age):
    network, batch = TSANetwork(config), make_batch(config, max_age=max_age)
    logits = network(batch)
    logits.square().mean().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("age", [math.inf, -math.inf, -2e6])
def test_ages_that_cannot_be_give_finite_scores(config, make_batch, age):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    for history in batch.histories.values():
        history.age_seconds[:, 1] = age
    assert torch.isfinite(network(batch)).all()


def test_a_history_of_nothing_but_padding_gives_finite_scores(config, make_batch):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    for history in batch.histories.values():
        history.padding[2] = True
    assert torch.isfinite(network(batch)).all()


def test_trimmed_batches_score_the_same(config, make_batch):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    wide = Batch({n: padded(h, 5) for n, h in batch.histories.items()}, batch.engineered)
    trimmed = wide.trimmed()
    assert all(h.padding.shape[1] <= 9 for h in trimmed.histories.values())
    torch.testing.assert_close(network(trimmed), network(batch), atol=1e-6, rtol=1e-6)


def test_in_double_precision_it_says_the_same(config, make_batch):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    torch.testing.assert_close(copy.deepcopy(network).double()(batch).float(), network(batch), atol=2e-5, rtol=0)


def test_bfloat16_moves_scores_little(config, make_batch):
    network, batch = TSANetwork(config).eval(), make_batch(config)
    expected = torch.softmax(network(batch), dim=-1)
    half = network.to_bfloat16()
    assert network.classifier.widen.weight.dtype == torch.float32
    torch.testing.assert_close(torch.softmax(half(batch), dim=-1), expected, atol=2e-2, rtol=0)


def test_a_state_dict_goes_round(config, make_batch):
    network, other, batch = TSANetwork(config).eval(), TSANetwork(config).eval(), make_batch(config)
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(batch), other(batch))
    storages = [p.untyped_storage().data_ptr() for p in network.state_dict().values() if p.numel()]
    assert len(set(storages)) == len(storages), "no parameter may stand under two names"


def test_auxiliary_loss_trains_the_gates_of_experts(small, make_batch):
    config = small(n_experts=3)
    network, batch = TSANetwork(config), make_batch(config)
    assert network.auxiliary_loss() == 0
    network(batch)
    network(batch)
    loss = network.auxiliary_loss()
    assert 0.9 * 4 * 1e-2 < loss < 3 * 4 * 1e-2, "four layers, each at least about 1, times the weight"
    loss.backward()
    assert all(layer.feedforward.gate.w_gating.grad.abs().sum() > 0 for layer in network.order[0].layers)
    assert network.auxiliary_loss() == 0, "a loss is given once"
    assert TSANetwork(small()).auxiliary_loss() == 0


def test_training_drops_but_evaluation_does_not(small, make_batch):
    network, batch = TSANetwork(small(dropout=0.5)), make_batch(small())
    assert not torch.equal(network(batch), network(batch))
    network.eval()
    assert torch.equal(network(batch), network(batch))


def test_a_network_of_one_history_takes_any_name(small, make_batch):
    network, batch = TSANetwork(small()).eval(), make_batch(small())
    (history,) = batch.histories.values()
    assert torch.equal(network(Batch({"other": history}, batch.engineered)), network(batch))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda b: Batch({}, b.engineered), r"histories must be customer, terminal [(]got"),
        (
            lambda b: Batch({"customer": b.histories["customer"], "card": b.histories["terminal"]}),
            r"[(]got customer, card",
        ),
        (lambda b: Batch(b.histories, None), "engineered must be"),
        (lambda b: Batch(b.histories, torch.zeros(6, 7)), "engineered must be"),
        (lambda b: b.histories["customer"].categorical.fill_(99), r"0 … 31 [(]got 99 … 99"),
        (lambda b: b.histories["customer"].categorical.fill_(-1), r"0 … 31 [(]got -1 … -1"),
        (lambda b: _with(b, numerical=torch.zeros(6, 9, 4)), "numerical must be"),
        (lambda b: _with(b, categorical=torch.zeros(6, 9, 5)), "categorical must be integers"),
        (lambda b: _with(b, padding=torch.zeros(6, 9)), "padding must be bool"),
        (lambda b: _with(b, padding=torch.zeros(6, 0, dtype=torch.bool)), "padding must be"),
        (lambda b: _with(b, outcome=None), "outcome"),
        (lambda b: _with(b, same_key=None), "same_key must be given"),
        (lambda b: _with(b, same_key=torch.zeros(6, 9, 1, dtype=torch.bool)), "same_key must be"),
        (lambda b: Batch({**b.histories, "customer": b.histories["customer"].select(torch.arange(3))}), "same number"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change, text, small, make_batch):
    config = small(histories=("customer", "terminal"), event_embedding="sum", known_outcomes=True, n_match_keys=2)
    network, batch = TSANetwork(config), make_batch(config)
    changed = change(batch)
    with pytest.raises(ModelError, match=text):
        network(changed if isinstance(changed, Batch) else batch)


def _with(batch: Batch, **changes: object) -> Batch:
    changed = {"customer": replace(batch.histories["customer"], **changes)}
    return Batch({**batch.histories, **changed}, batch.engineered)


def test_the_production_presets_build():
    for name, n_parameters in (("reference", 1_363_908), ("reference-two-history", None)):
        with torch.device("meta"):
            network = TSANetwork(preset(name))
        if n_parameters:
            assert sum(p.numel() for p in network.parameters()) == pytest.approx(n_parameters, rel=0.5)


def test_trains_under_autocast(config, make_batch):
    network, batch = TSANetwork(config), make_batch(config)
    with torch.autocast("cpu", torch.bfloat16):
        loss = functional.cross_entropy(network(batch), torch.tensor([0, 1] * 3))
    loss.backward()
    assert all(p.grad.dtype == p.dtype for p in network.parameters() if p.grad is not None)
