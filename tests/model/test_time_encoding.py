from __future__ import annotations

import math

import torch

from tsa.model.time_encoding import TimeEncode, age_distance, age_growth


def test_time_encode_agrees_with_the_golden_file(golden):
    tensors = golden("time_encode")
    encode = TimeEncode(len(tensors["bias"]))
    encode.load_state_dict({name: tensors[name] for name in ("weight", "bias")})
    torch.testing.assert_close(encode(tensors["time"]), tensors["out"], atol=1e-5, rtol=0)


def test_growth_is_e_per_million_seconds_and_capped():
    growth = age_growth(torch.tensor([0.0, 1e6, 1e7, 1e9, math.inf]))
    torch.testing.assert_close(growth, torch.tensor([1.0, math.e, math.exp(10), math.exp(10), math.exp(10)]))
    growth = age_growth(torch.tensor([1.2e7, 2e7, 2.1e7, -3.6e3, -2e7]), 2e7)
    torch.testing.assert_close(growth, torch.tensor([12.0, 20.0, 20.0, -3.6e-3, -20.0]).exp())
    assert age_growth(torch.tensor([5e5], dtype=torch.bfloat16)).dtype == torch.float32


def test_distance_counts_days_either_way():
    distance = age_distance(torch.tensor([[2 * 86_400.0, 0.0]]))
    torch.testing.assert_close(distance, torch.tensor([[[0.0, math.log(3)], [math.log(3), 0.0]]]))
