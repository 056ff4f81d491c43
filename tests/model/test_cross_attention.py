from __future__ import annotations

import pytest
import torch

from tsa.model import preset
from tsa.model.cross_attention import CrossAttention, LastQueryAttention
from tsa.model.temporal_attention import AttentionContext, TemporalAttention

SIZES = {"n_categorical": 2, "n_numerical": 1, "n_embedding": 20, "width": 16, "n_heads": 4, "feedforward_width": 24}
PADDING = torch.arange(6) < torch.tensor([[0], [2], [5]])
AGE = torch.tensor([9e5, 4e5, 3e5, 1e5, 60.0, 0.0]).expand(3, -1) * ~PADDING


def surroundings(time: str) -> AttentionContext:
    return AttentionContext.of(PADDING, AGE, time, last_only=True)


@pytest.mark.parametrize("time", ["log", "exponential", "none"])
@pytest.mark.parametrize("members", [1, 3])
def test_each_member_attends_as_the_last_position_would(time: str, members: int) -> None:
    torch.manual_seed(0)
    recall = LastQueryAttention(preset("default", **SIZES, n_ensemble=members, time_attention=time))
    torch.nn.init.normal_(recall.in_proj_bias)
    torch.nn.init.normal_(recall.out_proj.bias)
    events = torch.randn(3, 6, 16)
    query = torch.randn(members, 3, 16)
    found = recall(query, events, surroundings(time))
    weights = recall.weights(query, events, surroundings(time))
    assert weights.shape == (3, members * 4, 6)
    assert (weights[:, :, :5].amax(1) * PADDING[:, :5] < 1e-30).all()
    for member in range(members):
        own = TemporalAttention(16, 4, time=time)
        own.in_proj_weight.data = recall.in_proj_weight[member].detach()
        own.in_proj_bias.data = recall.in_proj_bias[member].detach()
        own.out_proj.weight.data = recall.out_proj.weight[member].detach()
        own.out_proj.bias.data = recall.out_proj.bias[member].detach()
        if time == "log":
            own.decay.data = recall.decay[member * 4 : member * 4 + 4].detach()
        # its query is the last event, its tokens are all: both are given by standing the query there instead
        asked = _asked(own, events, query[member], surroundings(time))
        torch.testing.assert_close(found[member], asked, rtol=1e-5, atol=1e-6)


def _asked(own: TemporalAttention, events: torch.Tensor, query: torch.Tensor, around: AttentionContext) -> torch.Tensor:
    """Plain attention with keys and values, of a query that is no token."""
    (wq, wk, wv), (bq, bk, bv) = own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3)
    q, k, v = query @ wq.t() + bq, events @ wk.t() + bk, events @ wv.t() + bv
    out = []
    for head in range(4):
        at = slice(4 * head, 4 * head + 4)
        logits = (q[:, None, at] * k[..., at]).sum(-1) / 2
        if around.growth is not None:
            logits = logits * around.growth[:, -1:] / around.growth
        if around.distance is not None:
            logits = logits - own.decay[head].exp() * around.distance[:, 0]
        logits = logits.masked_fill(PADDING, -torch.inf)
        out.append((logits.softmax(-1).unsqueeze(-1) * v[..., at]).sum(1))
    return own.out_proj(torch.cat(out, dim=-1))


def test_presence_scales_attention() -> None:
    torch.manual_seed(0)
    recall = LastQueryAttention(preset("default", **SIZES, n_ensemble=2))
    events, query, around = torch.randn(3, 6, 16), torch.randn(2, 3, 16), surroundings("log")
    plain = recall.weights(query, events, around)
    around.key_log_weight = torch.tensor([0.0, 0.0, -100.0, 0.0, 0.0, 0.0]).expand(3, -1)
    without = recall.weights(query, events, around)
    assert without[..., 2].max() < 1e-20
    kept = plain.clone()
    kept[..., 2] = 0.0
    torch.testing.assert_close(without, kept / kept.sum(-1, keepdim=True))


def test_one_member_gives_no_dimension_of_members() -> None:
    x = torch.randn(3, 6, 16)
    assert CrossAttention(preset("default", **SIZES, n_ensemble=1)).last(x, surroundings("log")).shape == (3, 16)
    several = CrossAttention(preset("default", **SIZES, n_ensemble=3))
    assert several.last(x, surroundings("log")).shape == (3, 3, 16)
    assert several.last_weights(x, surroundings("log")).shape == (3, 12, 6)
