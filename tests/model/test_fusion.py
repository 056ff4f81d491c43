from __future__ import annotations

import torch

from tsa.model import TSANetwork


def counted(network: TSANetwork) -> list[int]:
    """How many payments each order attention gets, filled in as it runs."""
    sizes = [0] * len(network.order)
    for k, order in enumerate(network.order):
        order.register_forward_hook(lambda _, inputs, __, k=k: sizes.__setitem__(k, len(inputs[0].padding)))
    return sizes


def test_the_gate_spares_histories_that_hold_nothing_else(small, make_batch, monkeypatch):
    monkeypatch.setattr("tsa.model.batch_invariance.MIN_ROWS", 1)
    config = small(histories=("cid", "ccid"))
    network, batch = TSANetwork(config).eval(), make_batch(config)
    alone = (~batch.histories["ccid"].padding).sum(1) <= 1
    sizes = counted(network)
    network(batch)
    assert sizes == [6, 6 - int(alone.sum())]
    assert alone.any()
    assert not alone.all()


def test_few_payments_that_need_a_history_are_filled_up(small, make_batch):
    config = small(histories=("cid", "ccid"))
    network, batch = TSANetwork(config).eval(), make_batch(config)
    sizes = counted(network)
    filled = network(batch)
    assert sizes == [6, 6]
    needs = int((~batch.histories["ccid"].padding).sum(1).argmax())
    lone = network(batch.rows(torch.tensor([needs])))
    assert sizes == [1, 1]
    torch.testing.assert_close(filled[needs : needs + 1], lone, atol=1e-5, rtol=0)


def test_the_gate_spares_payments_below_its_threshold(small, make_batch):
    config = small(histories=("cid", "ccid"))
    network, batch = TSANetwork(config).eval(), make_batch(config)
    network.combine.head.narrow.bias.data = torch.tensor([10.0, -10.0])
    sizes = counted(network)
    embedded = network.embed(batch)
    assert sizes == [6, 0]
    lone = network.combine.norm(network.order[0](batch.histories["cid"], network.table.weight))
    torch.testing.assert_close(embedded[:, : config.event_width], lone, atol=1e-3, rtol=0)


def test_where_no_payment_is_left_training_still_gives_gradients(small, make_batch):
    config = small(histories=("cid", "ccid"))
    network, batch = TSANetwork(config), make_batch(config)
    network.combine.head.narrow.bias.data = torch.tensor([10.0, -10.0])
    network(batch).sum().backward()
    gradients = [p.grad for p in network.order[1].parameters()]
    assert all(g is not None and not g.any() for g in gradients)


def test_the_first_history_always_counts(small, make_batch):
    config = small(histories=("cid", "ccid"))
    network, batch = TSANetwork(config).eval(), make_batch(config)
    batch.histories["cid"].padding[:, :-1] = True
    sizes = counted(network)
    network(batch)
    assert sizes[0] == 6


def test_softmax_weighs_all_histories(small, make_batch):
    config = small(histories=("a", "b"), fusion="softmax", norm="pre", pooling="last")
    network, batch = TSANetwork(config).eval(), make_batch(config)
    network.combine.gate.narrow.weight.data.zero_()
    network.combine.gate.narrow.bias.data.zero_()
    orders = [network.order[k](batch.histories[n], network.table.weight) for k, n in enumerate("ab")]
    expected = torch.cat(orders, dim=-1)  # even importances leave all as they are
    torch.testing.assert_close(network.embed(batch)[:, : 2 * config.event_width], expected, atol=1e-6, rtol=1e-6)


def test_concatenated_histories_keep_their_order(small, make_batch):
    config = small(histories=("a", "b"), fusion="concat")
    network, batch = TSANetwork(config).eval(), make_batch(config)
    second = network.order[1](batch.histories["b"], network.table.weight)
    width = config.event_width
    torch.testing.assert_close(network.embed(batch)[:, width : 2 * width], second, atol=1e-6, rtol=1e-6)


def test_no_history_can_be_ignored(small, make_batch):
    """However sure the gate is, each history has its share of the weight, and goes on learning."""
    networks = {}
    for floor in (0.0, 0.3):
        config = small(histories=("cid", "ccid"), fusion="softmax", norm="pre", pooling="last", fusion_floor=floor)
        torch.manual_seed(0)
        network = networks[floor] = TSANetwork(config).eval()
        network.combine.gate.narrow.bias.data = torch.tensor([500.0, -500.0])
        network(make_batch(config)).sum().backward()
    weights = networks[0.3].combine.importance(torch.zeros(3, 2 * config.event_width))
    torch.testing.assert_close(weights, torch.tensor([[0.85, 0.15]]).expand(3, 2))
    learns = {
        floor: any(bool(p.grad.any()) for p in network.order[1].parameters() if p.grad is not None)
        for floor, network in networks.items()
    }
    assert learns == {0.0: False, 0.3: True}
