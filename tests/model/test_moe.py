from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tsa.model.moe import HierarchicalExperts, MixtureOfExperts


@pytest.mark.parametrize("policy", ["all", "none"])
def test_agrees_with_the_golden_file(policy, golden):
    tensors = golden("mixture_of_experts")
    experts = MixtureOfExperts(16, 24, 5, policy, (1.25, 2.0)).eval()
    experts.load_state_dict({k.removeprefix("w."): v for k, v in tensors.items() if k.startswith("w.")})
    x = tensors[f"{policy}.x"]
    routing = experts.route(x)
    combine = functional.one_hot(routing.slots.long().clamp(max=7), 8) * routing.weights[..., None]
    torch.testing.assert_close(combine, tensors[f"{policy}.combine"], atol=1e-5, rtol=0)
    torch.testing.assert_close(experts(x), tensors[f"{policy}.out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(routing.balance, tensors[f"{policy}.balance_loss"][0], atol=1e-5, rtol=0)
    experts.train()
    torch.testing.assert_close(experts(x), tensors[f"{policy}.train_out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(experts.balance[0], tensors[f"{policy}.train_balance_loss"][0], atol=1e-5, rtol=0)


def make(kind: str, policy: str = "random") -> MixtureOfExperts:
    return MixtureOfExperts(8, 16, 4, policy) if kind == "flat" else HierarchicalExperts(8, 16, 3, 2, policy)


@pytest.mark.parametrize("kind", ["flat", "hierarchical"])
@pytest.mark.parametrize("policy", ["all", "none", "threshold", "random"])
def test_in_evaluation_a_position_is_served_whatever_stands_beside_it(kind, policy):
    experts = make(kind, policy).eval()
    x = torch.randn(5, 30, 8)
    alone = torch.stack([experts(group[None])[0] for group in x])
    torch.testing.assert_close(experts(x), alone, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(experts(x[:, :3]), alone[:, :3], atol=1e-6, rtol=1e-6)
    weights = experts.route(x).weights
    assert ((weights > 0).sum(-1) >= 1).all()
    if policy in ("all", "random"):
        torch.testing.assert_close(weights.sum(-1), torch.ones(5, 30))
    assert ((weights > 0).sum(-1) <= (2 if kind == "flat" else 4)).all()


def test_threshold_and_random_keep_second_experts_by_their_gate():
    x = torch.randn(4, 400, 8) * 3
    kept = {}
    for policy in ("all", "none", "threshold", "random"):
        torch.manual_seed(1)
        experts = MixtureOfExperts(8, 16, 4, policy, (None, None))
        weights, kept[policy] = experts.route(x).weights, 0.0
        second = weights.sort(dim=-1, descending=True)[0][..., 1]
        kept[policy] = (second > 0).float().mean().item()
        if policy == "threshold":
            assert second[second > 0].min() > 0.2
    assert kept["none"] == 0 < kept["threshold"] < kept["random"] < kept["all"]


def test_positions_past_the_capacity_are_dropped_in_training_only():
    experts = MixtureOfExperts(8, 16, 4, "none")
    x = torch.randn(1, 1, 8).expand(1, 40, 8)  # all choose the same expert, which may serve int(40 · 1.25 / 4) = 12
    served = experts(x).abs().sum(-1) > 0
    assert served[0].tolist() == [True] * 12 + [False] * 28
    assert (experts.eval()(x).abs().sum(-1) > 0).all()


@pytest.mark.parametrize("kind", ["flat", "hierarchical"])
def test_hidden_positions_take_no_part(kind):
    experts = make(kind, "all")
    x = torch.randn(3, 20, 8)
    hidden = torch.zeros(3, 20, dtype=torch.bool)
    expected = experts(x, hidden)
    wider = torch.cat([torch.randn(3, 30, 8), x], dim=1)
    out = experts(wider, functional.pad(hidden, (30, 0), value=True))
    torch.testing.assert_close(out[:, 30:], expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(experts.balance[1], experts.balance[0])


def test_balance_is_one_where_even_and_grows_where_not():
    experts = MixtureOfExperts(4, 8, 4, "all")
    experts.gate.w_gating.data = torch.eye(4) * 20
    even = torch.eye(4).repeat(1, 5, 1)
    experts(even)
    experts(even[:, :1].expand(1, 20, 4))
    experts(torch.eye(4))  # one position per group: the batch is taken as one group
    assert experts.balance[0].item() == pytest.approx(1.0, abs=1e-4)
    assert experts.balance[1].item() == pytest.approx(4.0, abs=1e-4)
    assert experts.balance[2].item() == pytest.approx(1.0, abs=1e-4)


def test_gradients_reach_gates_and_experts():
    for kind in ("flat", "hierarchical"):
        experts = make(kind, "all")
        (experts(torch.randn(3, 20, 8)).square().sum() + experts.balance[0]).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in experts.parameters())
