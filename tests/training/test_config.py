"""Settings are checked when they are made; what is wrong is named, all at once."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tsa.errors import ConfigError
from tsa.training import TrainingConfig


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, r"training.epochs: must be at least 1 [(]got 0"),
        ({"epochs": "many"}, r"training.epochs: must be a whole number [(]got 'many'"),
        ({"batch_size": -1}, r"training.batch_size: .* [(]got -1"),
        ({"learning_rate": float("nan")}, "training.learning_rate"),
        ({"learning_rate": float("inf")}, "training.learning_rate"),
        ({"warmup_fraction": 1.0}, "training.warmup_fraction"),
        ({"genuine_per_fraud": float("inf")}, "training.genuine_per_fraud"),
        ({"genuine_per_fraud": 0}, "training.genuine_per_fraud"),
        ({"ema_decay": 1.0}, "training.ema_decay"),
        ({"seed": -1}, "training.seed"),
        ({"seed": 2**63}, "training.seed"),
        ({"device": "abacus"}, "training.device"),
        ({"train_on": []}, "training.train_on"),
        ({"train_on": ["test"]}, r"training.train_on, entry 1: .* [(]got 'test'"),
        ({"train_on": ["train", "train"]}, "training: train_on must name each range once"),
        ({"train_on": ["train", "validation"]}, "training: early_stopping needs a validation range"),
        ({"batchsize": 3}, "training.batchsize: unknown key; did you mean `batch_size`?"),
        ({"epochs": 0, "seed": -1}, "training.epochs: .*; training.seed: "),
    ],
)
def test_a_setting_out_of_bounds(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        TrainingConfig.make(settings)


def test_it_is_frozen_and_complete() -> None:
    config = TrainingConfig.make({"epochs": 2})
    with pytest.raises(ValidationError):
        config.epochs = 3  # type: ignore[misc]
    assert TrainingConfig.make(config.model_dump()) == config
    assert TrainingConfig.make({"train_on": ["train", "validation"], "early_stopping": False}).train_on[1]
