from __future__ import annotations

import pytest
import torch

from support.explain_networks import CONFIGS, SMALL
from tsa.model import ModelConfig


@pytest.fixture(autouse=True)
def _one_seed(one_thread: None) -> None:
    torch.manual_seed(0)


@pytest.fixture(params=CONFIGS, ids=lambda name: name.replace(" ", "-"))
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return ModelConfig(**{**SMALL, **CONFIGS[request.param]})


@pytest.fixture
def default() -> ModelConfig:
    return ModelConfig(**{**SMALL, **CONFIGS["default"]})
