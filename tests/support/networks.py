from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tsa.model import Batch, History, ModelConfig

HERE = Path(__file__).parent
SMALL: dict[str, Any] = {
    "n_categorical": 5,
    "n_numerical": 3,
    "n_engineered": 2,
    "n_embedding": 30,
    "width": 8,
    "n_heads": 2,
    "n_order_layers": 2,
    "n_feature_layers": 2,
    "feedforward_width": 16,
    "classifier_width": 16,
}
DEFAULT_LIKE: dict[str, Any] = {
    "event_embedding": "sum",
    "known_outcomes": True,
    "n_match_keys": 2,
    "norm": "pre",
    "activation": "gelu",
    "time_attention": "log",
    "pooling": "last",
    "fusion": "softmax",
}
TWO = {"histories": ("customer", "terminal")}
CONFIGS: dict[str, dict[str, Any]] = {
    "reference": {},
    "reference, two histories": TWO,
    "reference, three histories": {"histories": ("a", "b", "c")},
    "default": {**TWO, **DEFAULT_LIKE},
    "default, one history": DEFAULT_LIKE,
    "default, no feature attention": {**TWO, **DEFAULT_LIKE, "n_feature_layers": 0},
    "recall": {**TWO, **DEFAULT_LIKE, "order_attention": "cross"},
    "concatenated": {**TWO, **DEFAULT_LIKE, "fusion": "concat", "pooling": "cls"},
    "factorised": {**TWO, "event_embedding": "factorise", "time_attention": "none", "norm": "pre"},
    "ages encoded, no time in attention": {**TWO, "time_encoding": True, "time_attention": "none"},
    "recall, ages encoded as well": {**TWO, **DEFAULT_LIKE, "order_attention": "cross", "time_encoding": True},
    "experts": {**TWO, "n_experts": 3, "experts_in": ("order", "feature", "gate")},
    "hierarchical experts": {"n_experts": 6, "n_expert_groups": 3, "expert_policy": "all"},
    "mlp": {"mlp": True, "biases": False, "pooling": "last"},
    "few features": {"n_categorical": 0, "n_numerical": 1, "n_engineered": 0, "n_embedding": 1},
}


@pytest.fixture(autouse=True)
def _one_thread_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return


@pytest.fixture(params=CONFIGS, ids=lambda name: name.replace(" ", "-"))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return ModelConfig(**{**SMALL, **CONFIGS[request.param]})


@pytest.fixture
def small() -> Callable[..., ModelConfig]:
    return lambda **changes: ModelConfig(**{**SMALL, **changes})


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return _make_batch


def _make_batch(config: ModelConfig, size: int = 6, length: int = 9, max_age: float = 2e6) -> Batch:
    """Histories of 1 to `length` events; in the second and later histories payment 0 has no earlier event."""
    histories = {name: _make_history(config, size, length, max_age) for name in config.histories}
    for history in list(histories.values())[1:]:
        _hide(history, torch.arange(length).expand(size, -1) < torch.tensor([length - 1] + [0] * (size - 1))[:, None])
    return Batch(histories, torch.rand(size, config.n_engineered) if config.n_engineered else None)


def _make_history(config: ModelConfig, size: int, length: int, max_age: float) -> History:
    last = config.n_embedding - config.n_numerical
    history = History(
        categorical=torch.randint(0, last + 1, (size, length, config.n_categorical), dtype=torch.int32),
        numerical=torch.rand(size, length, config.n_numerical),
        age_seconds=(torch.rand(size, length) * max_age).sort(dim=1, descending=True)[0].round(),
        padding=torch.zeros(size, length, dtype=torch.bool),
        outcome=torch.randint(1, 4, (size, length), dtype=torch.int8),
        same_key=torch.rand(size, length, config.n_match_keys) < 0.5,
    )
    history.age_seconds[:, -1] = 0
    _hide(history, torch.arange(length) < torch.randint(0, length, (size, 1)))
    return history


def _hide(history: History, padding: Tensor) -> None:
    for values in (history.categorical, history.numerical, history.age_seconds, history.outcome, history.same_key):
        assert values is not None
        values[padding] = 0
    history.padding |= padding


@pytest.fixture
def golden() -> Callable[[str], dict[str, Tensor]]:
    return lambda name: load_file(HERE.parent / "golden" / f"{name}.safetensors")


@pytest.fixture
def golden_config() -> Callable[[str], dict[str, Any]]:
    return lambda name: json.loads((HERE.parent / "golden" / f"{name}.config.json").read_text())


@pytest.fixture(scope="session")
def plain() -> ModuleType:
    """The plain second implementation that the speed benchmark compares with."""
    path = HERE.parents[1] / "benchmarks" / "reference_forward.py"
    spec = importlib.util.spec_from_file_location("reference_forward", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
