from __future__ import annotations

import pytest
import torch

from tsa.model.temporal_attention import AttentionContext, AttentionLayer, FeedForward, TemporalAttention

TIMES = ("none", "exponential", "log")


def history(size: int = 4, length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    padding = torch.arange(length) < torch.tensor([[0], [2], [length - 1], [3]])
    age = (torch.rand(size, length) * 3e6).sort(dim=1, descending=True)[0].masked_fill(padding, 0.0)
    return padding, age


def by_hand(attention: TemporalAttention, x, padding, age):
    width = x.shape[-1]
    packed = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (x @ w.t() + b for w, b in zip(*packed, strict=True))
    n, d = attention.n_heads, width // attention.n_heads
    out = torch.empty_like(x)
    for h in range(n):
        part = slice(h * d, (h + 1) * d)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / d**0.5
        gap = age[:, :, None] - age[:, None, :]
        if attention.time == "exponential":
            logits = logits * torch.exp(gap / 1e6)
        if attention.time == "log":
            logits = logits - attention.decay[h].exp() * torch.log1p(gap.abs() / 86_400)
        logits = logits.masked_fill(padding[:, None], -torch.inf)
        out[..., part] = torch.softmax(logits, -1) @ v[..., part]
    return attention.out_proj(out)


def test_agrees_with_the_golden_file(golden):
    tensors = golden("temporal_attention")
    attention = TemporalAttention(24, 3, time="exponential")
    attention.load_state_dict({k.removeprefix("w."): v for k, v in tensors.items() if k.startswith("w.")})
    around = AttentionContext.of(tensors["padding"], tensors["age_seconds"], "exponential")
    torch.testing.assert_close(attention(tensors["x"], around), tensors["out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(attention.last(tensors["x"], around), tensors["out"][:, -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_says_what_the_formula_says(time, n_heads):
    padding, age = history()
    x = torch.randn(4, 7, 8)
    attention = TemporalAttention(8, n_heads, time=time)
    torch.nn.init.normal_(attention.in_proj_bias)
    expected = by_hand(attention, x, padding, age)
    around = AttentionContext.of(padding, age, time)
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            torch.testing.assert_close(attention(x, around), expected, atol=2e-6, rtol=1e-5)
            torch.testing.assert_close(attention.last(x, around), expected[:, -1], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("time", TIMES)
def test_what_stands_for_the_age_of_padding_makes_no_difference(time):
    padding, age = history()
    x, attention = torch.randn(4, 7, 8), TemporalAttention(8, 2, time=time)
    expected = attention.last(x, AttentionContext.of(padding, age, time))
    for odd in (torch.nan, torch.inf, -1e30):
        around = AttentionContext.of(padding, age.masked_fill(padding, odd), time)
        assert torch.equal(attention.last(x, around), expected)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_last_position_alone_has_the_same_value_and_gradients(time, norm):
    padding, age = history()
    x = torch.randn(4, 7, 8)
    layer = AttentionLayer(TemporalAttention(8, 2, time=time), FeedForward(8, 16, 0.0, "gelu"), 8, 0.0, norm)
    around = AttentionContext.of(padding, age, time)
    gradients = []
    for out in (layer(x, around)[:, -1], layer.last(x, around)):
        layer.zero_grad()
        out.square().sum().backward()
        gradients.append([p.grad.clone() for p in layer.parameters()])
    torch.testing.assert_close(layer(x, around)[:, -1], layer.last(x, around), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=2e-5, rtol=1e-4)


def test_decay_spreads_over_the_heads_and_learns():
    attention = TemporalAttention(8, 4, time="log")
    torch.testing.assert_close(attention.decay, torch.linspace(-3.0, 1.0, 4))
    padding, age = history()
    attention(torch.randn(4, 7, 8), AttentionContext.of(padding, age, "log")).square().sum().backward()
    assert attention.decay.grad.abs().sum() > 0


@pytest.mark.parametrize("time", TIMES)
def test_under_dropout_the_mean_over_draws_stays(time):
    padding, age = history()
    x = torch.randn(4, 7, 8)
    attention = TemporalAttention(8, 2, dropout=0.3, time=time)
    around = AttentionContext.of(padding, age, time)
    with torch.no_grad():
        draws = torch.stack([attention(x, around) for _ in range(1000)])
        last = torch.stack([attention.last(x, around) for _ in range(1000)])
        expected = attention.eval()(x, around)
    torch.testing.assert_close(draws.mean(0), expected, atol=0.1, rtol=0)
    torch.testing.assert_close(last.mean(0), expected[:, -1], atol=0.1, rtol=0)
    torch.testing.assert_close(draws.std(0)[:, -1], last.std(0), atol=0.1, rtol=0)


@pytest.mark.parametrize("time", ["none", "log"])
def test_one_head_over_many_tokens_takes_a_shorter_way_to_the_same(time):
    attention = TemporalAttention(4, 1, time=time).eval()
    torch.nn.init.normal_(attention.in_proj_bias)
    x, padding = torch.randn(3, 20, 4), torch.arange(20) < torch.tensor([[0], [5], [19]])
    around = AttentionContext.of(padding, torch.rand(3, 20) * 1e6, time)
    with torch.no_grad():
        short = attention(x, around)
    torch.testing.assert_close(short, attention(x, around), atol=2e-6, rtol=1e-5)
