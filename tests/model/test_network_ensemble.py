from __future__ import annotations

import pytest
import torch
from torch import nn

from tsa.errors import ConfigError
from tsa.inference.onnx_export import random_batch
from tsa.model import ModelConfig, TSANetwork, preset
from tsa.model.network_ensemble import BatchedLinear, concat_members, mean_over_members

SIZES = {"n_categorical": 3, "n_numerical": 2, "n_embedding": 30, "width": 16, "n_engineered": 2}
LENGTHS = {"customer": 5, "card": 7}


def network(**settings: object) -> TSANetwork:
    torch.manual_seed(0)
    return TSANetwork(preset("default", **SIZES, histories=tuple(LENGTHS), **settings))


def test_each_member_has_a_linear_map_of_its_own() -> None:
    linear, x = BatchedLinear(3, 4, 5), torch.randn(3, 2, 4)
    found = linear(x)
    for member in range(3):
        own = nn.functional.linear(x[member], linear.weight[member], linear.bias[member])
        torch.testing.assert_close(found[member], own)
    assert 0.4 < linear.weight.abs().max().item() <= 0.5  # as nn.Linear begins: within 1 / √4


def test_what_all_share_is_given_to_each() -> None:
    own, shared = torch.randn(2, 3, 4), torch.randn(2, 5)
    both = concat_members([own, shared])
    assert both.shape == (2, 3, 9)
    assert torch.equal(both[:, 1, 4:], shared)
    assert concat_members([shared, shared]).shape == (2, 10)


def test_members_learn_apart_and_are_averaged() -> None:
    net, batch = network(n_ensemble=3, dropout=0.0, feature_dropout=0.0), random_batch(network().config, LENGTHS, 6)
    apart = net.eval()(batch, per_member=True)
    assert apart.shape == (6, 3, 2)
    assert (apart[:, 0] - apart[:, 1]).abs().max() > 1e-3
    torch.testing.assert_close(net(batch), apart.mean(1))
    assert torch.equal(mean_over_members(apart[:, 0]), apart[:, 0])


def test_a_member_learns_nothing_from_the_errors_of_another() -> None:
    net, batch = network(n_ensemble=3), random_batch(network().config, LENGTHS, 6)
    net.train()(batch, per_member=True)[:, 1].sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1 and parameter.shape[0] == 3 and "in_proj_weight" in name and "order" in name:
            assert parameter.grad is not None
            reached = parameter.grad.abs().flatten(1).amax(1) > 0
            assert reached.tolist() == [False, True, False], name


@pytest.mark.parametrize("settings", [{"order_attention": "self"}, {"fusion": "gate"}])
def test_members_where_there_can_be_none_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="n_ensemble"):
        preset("default", **SIZES, histories=("a", "b"), **settings)


def test_the_reference_has_none() -> None:
    assert ModelConfig(n_categorical=2, n_numerical=1, n_embedding=20).n_ensemble == 1
