"""Settings of a training run, checked when made, written out whole with the run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tsa.errors import ConfigError
from tsa.toml import look_alike


class TrainingConfig(BaseModel):
    """How a network is trained. The defaults are those the handbook figures in the README were made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    """Peak of the one-cycle schedule."""
    warm_up: float = Field(default=0.15, gt=0, lt=1)
    """Share of the steps that the rate rises."""
    weight_decay: float = Field(default=3e-2, ge=0, allow_inf_nan=False)
    """On weight matrices alone: not on biases, norms and embeddings."""
    clip_norm: float = Field(default=1.0, gt=0)
    genuine_per_fraud: float = Field(default=15.0, gt=0, allow_inf_nan=False)
    """Genuine payments per fraud in an epoch, drawn anew each epoch."""
    look_again: int = Field(default=2, ge=0)
    """From the second epoch on, and again after so many, all genuine payments are scored, and drawn by importance: those
    that look risky more often. 0: all are equally likely, always."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the running average of the weights, which is what is validated and kept; 0 keeps the weights themselves."""
    train_on: tuple[Literal["train", "validation", "calibration"], ...] = Field(default=("train",), min_length=1)
    """Ranges whose labelled payments are learned from. Adding later ranges once the settings are chosen costs their use
    as a check: early stopping on a range that is trained on is refused."""
    early_stopping: bool = True
    """Keep the weights of the best validation average precision; otherwise those of the last epoch."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation average precision before training stops."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _validate_apart(self) -> Self:
        if self.early_stopping and "validation" in self.train_on:
            raise ValueError("early_stopping needs a validation range that is not trained on, however: train_on has it")
        if len(set(self.train_on)) < len(self.train_on):
            raise ValueError(f"train_on must name each range once, however: {', '.join(self.train_on)}")
        return self

    def looks_again(self, epoch: int) -> bool:
        """Whether genuine payments are scored before `epoch`, the first being 1."""
        return self.look_again > 0 and epoch >= 2 and (epoch - 2) % self.look_again == 0

    @classmethod
    def make(cls, settings: dict[str, Any]) -> Self:
        """Build from a plain dict; ConfigError names each setting, its value and the rule it breaks."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ConfigError("; ".join(_finding(detail) for detail in error.errors())) from None


def _finding(detail: Any) -> str:
    """One thing that pydantic found: setting, rule, value."""
    if detail["type"] == "value_error":  # our own rules already say rule and value
        return f"training: {detail['ctx']['error']}"
    key = ".".join(map(str, ("training", *detail["loc"])))
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown setting{look_alike(str(detail['loc'][-1]), list(TrainingConfig.model_fields))}"
    return f"{key}: {detail['msg'].replace('Input should', 'must')}, however: {detail['input']!r}"
