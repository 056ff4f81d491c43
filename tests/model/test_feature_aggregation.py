from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tsa.model.embedding import FactorisedEvents, numerical_rows
from tsa.model.feature_aggregation import FeatureAggregation, aggregation_widths, factorization_machine


@pytest.mark.parametrize(
    ("n", "floor", "widths"),
    [
        (108, 0, [108, 54, 27, 13, 6, 3, 1]),
        (108, 8, [108, 54, 27, 13, 6, 3, 1]),
        (32, 8, [32, 16, 8, 4, 2, 1, 1]),
        (20, 0, [20, 10, 5, 2, 1, 0, 1]),
        (20, 8, [20, 10, 8, 8, 8, 8, 1]),
        (1, 4, [1, 4, 4, 4, 4, 4, 1]),
    ],
)
def test_widths(n, floor, widths):
    assert aggregation_widths(n, floor) == widths


def by_hand(aggregation: FeatureAggregation, x: torch.Tensor) -> torch.Tensor:
    """x (…, n, D) → (…, D), as the description says it."""
    x = x.transpose(-1, -2)
    for i, (weight, bias) in enumerate(zip(aggregation.weights, aggregation.biases, strict=True)):
        x = functional.linear(x, weight, bias)
        x = functional.leaky_relu(x, 0.01) if i < 5 else x
    return x.squeeze(-1)


@pytest.mark.parametrize("n", [3, 40])
def test_folds_rows_and_values_without_expanding_them(n):
    aggregation = FeatureAggregation(n, 8)
    table, rows, values = torch.randn(60, 8), torch.randint(0, 60, (150, n)), torch.randn(150, n)
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            torch.testing.assert_close(aggregation.of_rows(rows, table), by_hand(aggregation, table[rows]))
            vectors = table[:n]
            expected = by_hand(aggregation, values[..., None] * vectors)
            torch.testing.assert_close(aggregation.of_values(values, vectors), expected)


def test_gradients_are_those_of_the_formula():
    aggregation = FeatureAggregation(6, 8)
    table = torch.randn(30, 4, requires_grad=True)
    rows, values = torch.randint(1, 30, (150, 6)), torch.randn(150, 6)
    found = []
    for rows_out, values_out in (
        (aggregation.of_rows(rows, table), aggregation.of_values(values, table[:6])),
        (by_hand(aggregation, table[rows]), by_hand(aggregation, values[..., None] * table[:6])),
    ):
        loss = (rows_out * 2 + values_out).square().sum()
        found.append(torch.autograd.grad(loss, [table, *aggregation.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 5, 31])
def test_few_features_keep_their_information(n):
    aggregation = FeatureAggregation(n, 8)
    out = aggregation.of_values(torch.randn(200, n), torch.randn(n, 16))
    assert out.std(dim=0).mean() > 1e-2


def test_a_width_of_zero_loads_and_says_nothing():
    aggregation = FeatureAggregation(20, 0)
    out = aggregation.of_values(torch.randn(10, 20), torch.randn(20, 4))
    assert torch.equal(out, aggregation.biases[-1].expand(10, 4))


def test_factorization_machine_agrees_with_the_golden_file(golden):
    tensors = golden("factorization_machine")
    torch.testing.assert_close(factorization_machine(tensors["x"]), tensors["out"], atol=1e-5, rtol=0)


def test_factorised_events_are_factorization_machines(small, make_batch):
    config = small(event_embedding="factorise")
    (history,) = make_batch(config).histories.values()
    table = torch.randn(config.n_embedding + 2, config.width)
    table[0] = 0
    vectors = numerical_rows(table, config.n_numerical)
    halves = table[history.categorical], history.numerical[..., None] * vectors
    expected = torch.cat([factorization_machine(half) for half in halves], dim=-1)
    expected = functional.layer_norm(expected, expected.shape[-1:])
    torch.testing.assert_close(FactorisedEvents(config)(history, table), expected, atol=1e-4, rtol=1e-4)


def test_numerical_rows_stand_before_the_last():
    table = torch.arange(12.0)[:, None]  # N = 10, F = 3: rows 8, 9, 10
    assert numerical_rows(table, 3)[:, 0].tolist() == [8, 9, 10]
    assert numerical_rows(table, 0).shape == (0, 1)
