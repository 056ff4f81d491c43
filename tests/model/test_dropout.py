from __future__ import annotations

import pytest
import torch

from tsa.inference.onnx_export import random_batch
from tsa.model import History, TSANetwork, preset
from tsa.model.dropout import attention_with_dropout, dropout, feature_dropout, relu_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_the_share_it_is_told_and_keeps_the_mean(p):
    x = torch.ones(1_000_003, requires_grad=True)
    y = dropout(x, p, True)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=2e-3)
    assert y.mean().item() == pytest.approx(1.0, abs=1e-2)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_does_nothing_in_evaluation():
    x = torch.randn(5)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x


def test_draws_follow_the_seed():
    x = torch.ones(100)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(x, 0.5, True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_keeps_the_type():
    assert dropout(torch.ones(10, dtype=torch.bfloat16), 0.5, True).dtype == torch.bfloat16


def test_attention_under_dropout_has_the_gradients_of_the_formula():
    q, k, v = (torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def seeded(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return attention_with_dropout(*inputs, None, 0.4)

    assert torch.autograd.gradcheck(seeded, (q, k, v))
    torch.manual_seed(3)
    with_bias = attention_with_dropout(q, k, v, torch.zeros(1, 1, 1, 5, dtype=torch.float64), 0.4)
    torch.testing.assert_close(seeded(q, k, v), with_bias)


def test_bfloat16_attention_is_near():
    q, k, v = (torch.randn(2, 2, 5, 4) for _ in range(3))
    near = attention_with_dropout(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, 0.0)
    torch.testing.assert_close(near.float(), attention_with_dropout(q, k, v, None, 0.0), atol=5e-2, rtol=0)


def test_relu_with_dropout_has_the_gradients_of_the_formula():
    x = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return relu_dropout(x, 0.4, True)

    assert torch.autograd.gradcheck(seeded, (x,))
    torch.manual_seed(5)
    expected = dropout(torch.relu(x), 0.4, True)
    torch.testing.assert_close(seeded(x), expected)
    assert torch.equal(relu_dropout(x.detach().clone(), 0.4, False), torch.relu(x))


def test_a_feature_is_left_out_of_all_events_of_a_payment():
    torch.manual_seed(0)
    shape = (4000, 3)
    values = torch.randint(1, 9, (*shape, 2), dtype=torch.int32)
    zeros = torch.zeros(shape)
    histories = [History(values[:, :n], zeros[:, :n], zeros[:, :n], zeros[:, :n].bool()) for n in (3, 2)]
    first, second = feature_dropout(histories, 0.3)
    assert first.categorical.dtype == torch.int32
    kept = first.categorical[:, 0] != 0
    assert torch.equal(first.categorical, values * kept[:, None])
    assert torch.equal(second.categorical, values[:, :2] * kept[:, None])
    assert kept.float().mean(0).tolist() == pytest.approx([0.7, 0.7], abs=0.03)
    assert torch.equal(histories[0].categorical, values)


def test_features_are_left_out_in_training_alone():
    torch.manual_seed(0)
    sizes = {"n_categorical": 3, "n_numerical": 2, "n_embedding": 30, "width": 16, "dropout": 0.0}
    network = TSANetwork(preset("default", **sizes, feature_dropout=0.5))
    batch = random_batch(network.config, {"history": 5}, 50)
    network.eval()
    assert torch.equal(network(batch), network(batch))
    network.train()
    assert not torch.equal(network(batch), network(batch))
