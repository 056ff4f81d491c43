"""Settings of a training run, checked when made, written out whole with the run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tsa.errors import ConfigError


class TrainingConfig(BaseModel):
    """How a network is trained. The defaults are those the handbook figures in the README were made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=8, ge=1)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    """Peak of the one-cycle schedule."""
    warm_up: float = Field(default=0.15, gt=0, lt=1)
    """Share of the steps that the rate rises."""
    weight_decay: float = Field(default=1e-2, ge=0, allow_inf_nan=False)
    """On weight matrices alone: not on biases, norms and embeddings."""
    clip_norm: float = Field(default=1.0, gt=0)
    genuine_per_fraud: float = Field(default=9.0, gt=0)
    """Genuine payments per fraud in an epoch, drawn anew each epoch."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the running average of the weights, which is what is validated and kept; 0 keeps the weights themselves."""
    train_on: tuple[Literal["train", "validation", "calibration"], ...] = ("train",)
    """Ranges whose labelled payments are learned from. Adding later ranges once the settings are chosen costs their use
    as a check: early stopping on a range that is trained on is refused."""
    early_stopping: bool = True
    """Keep the weights of the best validation average precision; otherwise those of the last epoch."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation average precision before training stops."""
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _validate_apart(self) -> Self:
        if self.early_stopping and "validation" in self.train_on:
            raise ValueError("early_stopping needs a validation range that is not trained on, however: train_on has it")
        return self

    @classmethod
    def make(cls, settings: dict[str, Any]) -> Self:
        """Build from a plain dict; ConfigError names each setting, its value and the rule it breaks."""
        try:
            return cls(**settings)
        except ValidationError as error:
            findings = "; ".join(
                f"training.{'.'.join(map(str, e['loc']))}: {e['msg']}, however: {e['input']!r}" for e in error.errors()
            )
            raise ConfigError(findings) from None
