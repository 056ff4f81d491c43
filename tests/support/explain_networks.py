"""Small networks of every kind, with random weights that are not the quiet ones they start from, and payments for them."""

from __future__ import annotations

from typing import Any

import torch

from tsa.explain.baseline import Baseline
from tsa.explain.path import InterpolationPath
from tsa.model import Batch, History, ModelConfig, TSANetwork

SMALL: dict[str, Any] = {
    "n_categorical": 4,
    "n_numerical": 3,
    "n_engineered": 2,
    "n_embedding": 23,
    "width": 8,
    "n_heads": 2,
    "n_order_layers": 2,
    "n_feature_layers": 2,
    "feedforward_width": 16,
    "classifier_width": 16,
}
SUMMED: dict[str, Any] = {
    "event_embedding": "sum",
    "n_match_features": 2,
    "n_match_keys": 2,
    "n_missing_indicators": 1,
    "known_outcomes": True,
    "norm": "pre",
    "activation": "gelu",
    "time_attention": "log",
    "order_attention": "cross",
    "pooling": "last",
    "fusion": "softmax",
}
TWO = {"histories": ("customer", "terminal")}
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {**TWO, **SUMMED},
    "default, one history": SUMMED,
    "default, self attention": {**TWO, **SUMMED, "order_attention": "self", "time_attention": "exponential"},
    "default, encoded ages": {**TWO, **SUMMED, "time_encoding": True},
    "reference": {},
    "reference, two histories": TWO,
    "reference, three histories": {"histories": ("a", "b", "c")},
    "concatenated": {**TWO, "fusion": "concat", "time_attention": "none"},
    "factorised": {**TWO, "event_embedding": "factorise", "norm": "pre", "time_encoding": True},
    "mlp": {**TWO, "mlp": True, "n_feature_layers": 0},
    "numbers alone": {"n_categorical": 0, "n_numerical": 2, "n_engineered": 0, "n_embedding": 2},
    "three classes": {**TWO, **SUMMED, "n_classes": 3},
}
ROWS = 5  # of the table for each categorical feature: 1 … 5, 6 … 10, and so on


def loud_network(config: ModelConfig) -> TSANetwork:
    """Random weights, biases too, loud enough that all that a payment has makes a difference."""
    network = TSANetwork(config).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if (value.ndim == 1 or name.endswith("bias")) and not name.endswith("decay"):
                value += 0.3 * torch.randn_like(value)
        for name, value in network.named_parameters():
            if name.endswith("table.weight"):
                value[1:] = 0.7 * torch.randn_like(value[1:])
        network.classifier.narrow.weight *= 5
    return network


def payment_batch(config: ModelConfig, lengths: dict[str, int] | None = None) -> Batch:
    """One payment with histories of so many events, the current one included (6 by default)."""
    histories = {name: _history(config, (lengths or {}).get(name, 6)) for name in config.histories}
    first = next(iter(histories.values()))
    for history in histories.values():  # the current event is the same in all of them
        history.categorical[:, -1], history.numerical[:, -1] = first.categorical[:, -1], first.numerical[:, -1]
    return Batch(histories, torch.randn(1, config.n_engineered) if config.n_engineered else None)


def _history(config: ModelConfig, length: int) -> History:
    within = torch.randint(1, ROWS + 1, (1, length, config.n_categorical))
    within[:, -1] = torch.where(within[:, -1] == 2, 3, within[:, -1])  # which is the neutral one
    outcome = torch.randint(1, 4, (1, length))
    age = (torch.rand(1, length) * 2e6).sort(descending=True)[0].round()
    outcome[:, -1], age[:, -1] = 1, 0
    same_key = torch.rand(1, length, config.n_match_keys) < 0.5
    same_key[:, -1] = True
    return History(
        categorical=within + ROWS * torch.arange(config.n_categorical),
        numerical=torch.randn(1, length, config.n_numerical),
        age_seconds=age,
        padding=torch.zeros(1, length, dtype=torch.bool),
        outcome=outcome,
        same_key=same_key,
    )


def neutral_of(config: ModelConfig) -> Baseline:
    """A neutral payment that could be one: the second value of each feature, and numbers of their own."""
    rows = tuple(torch.tensor([ROWS * feature + 2]) for feature in range(config.n_categorical))
    return Baseline(rows, 0.1 * torch.arange(config.n_numerical), torch.full((config.n_engineered,), 0.2))


def passage_of(config: ModelConfig, lengths: dict[str, int] | None = None) -> InterpolationPath:
    """A passage of a loud network and the first of its payments whose score there is something to say about."""
    network, neutral = loud_network(config), neutral_of(config)
    while True:
        passage = InterpolationPath(network, payment_batch(config, lengths), neutral)
        with torch.no_grad():
            if abs(float(passage(*passage.actual) - passage(*passage.neutral))) > 0.1:
                return passage
