"""Settings of a training run, checked when made, written out whole with the run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from tsa.errors import ConfigError
from tsa.toml import look_alike
from tsa.training.choices import Choices

METRICS = (
    "validation_average_precision",
    "validation_roc_auc",
    "validation_loss",
    "validation_accuracy",
    "validation_precision",
    "validation_recall",
    "validation_f1",
    "loss",
)
"""What each epoch measures and early stopping may go by; `loss` is the training's."""

WITHOUT_EFFECT = ("workers", "checkpoint_minutes", "tensorboard", "keep_best")
"""Settings that make no difference to the weights: a run may go on with others than it began with."""


class TrainingConfig(Choices):
    """How a network is trained. The defaults are those the handbook figures in the README were made with."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    """Payments in a step of the optimiser, over all processes together."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a batch is worked off in, one after the other: less memory, the same batch."""
    bucket: int = Field(default=0, ge=0)
    """Batches in a window whose payments are put together by length of history, so that less is padding; 0: as drawn."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that gather the next batches; 0 gathers each when it is needed. None: 0 on a CPU, 2 for each GPU."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """What matrix products are computed in. auto: float32 on a CPU; on a GPU bf16 where it has it, else fp16."""
    compile: bool = False
    """Compile the network for training with torch.compile."""
    learning_rate: float = Field(default=1.5e-3, gt=0, allow_inf_nan=False)
    """The highest rate of the schedule."""
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
    vary_delay: float = Field(default=0.5, ge=0, le=1)
    """Share of the payments drawn that learn of earlier outcomes sooner or later than in truth, after 0 to 2 times the delay
    by chance: few frauds then teach as many more would. Only training varies it; whatever is scored keeps to the delay."""
    thin_histories: float = Field(default=0.5, ge=0, le=1)
    """Share of the payments drawn of whose earlier events some are left out, up to half of them by chance. As with
    `vary_delay`, whatever is scored sees all."""
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the running average of the weights, which is what is validated and kept; 0 keeps the weights themselves.
    It settles what a constant rate leaves moving."""
    train_on: tuple[Literal["train", "validation", "calibration"], ...] = Field(default=("train",), min_length=1)
    """Ranges whose labelled payments are learned from. Adding later ranges once the settings are chosen costs their use
    as a check: early stopping on a range that is trained on is refused."""
    early_stopping: bool = True
    """Keep the weights of the epoch with the best `metric`; otherwise those of the last epoch."""
    metric: str = "validation_average_precision"
    """What early stopping goes by: one of METRICS."""
    direction: Literal["auto", "higher", "lower"] = "auto"
    """Which `metric` is better. auto: a lower loss, a higher value of all else."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better `metric` before training stops."""
    min_delta: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """By how much more than this a `metric` must differ to be better."""
    keep_best: int = Field(default=1, ge=1)
    """Of how many of the best epochs, by early stopping's `metric`, the weights are kept in the run's folder `checkpoints`."""
    checkpoint_minutes: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """A checkpoint is written after so many minutes, beside the one at each epoch's end."""
    calibration: Literal["bspline", "isotonic", "platt", "beta", "sampling"] = "bspline"
    """How probabilities are fitted to the scores of the calibration range once training has ended."""
    tensorboard: bool = False
    """Write what each epoch measured for TensorBoard, to the run's folder `tensorboard`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _validate_apart(self) -> Self:
        if self.early_stopping and "validation" in self.train_on:
            raise ValueError("early_stopping needs a validation range that is not trained on, however: train_on has it")
        if len(set(self.train_on)) < len(self.train_on):
            raise ValueError(f"train_on must name each range once, however: {', '.join(self.train_on)}")
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, however: metric={self.metric!r}")
        if self.calibration == "sampling" and self.look_again:
            rule = "calibration='sampling' needs look_again=0: what is drawn by importance shifts scores in another way too"
            raise ValueError(f"{rule}, however: look_again={self.look_again}")
        if self.accumulate > self.batch_size:
            found = f"accumulate={self.accumulate}, batch_size={self.batch_size}"
            raise ValueError(f"accumulate must not be above batch_size, however: {found}")
        return self

    @model_validator(mode="after")
    def _validate_with_epochs(self) -> Self:
        if self.optimizer == "schedule_free_adamw" and self.ema_decay:
            rule = "optimizer='schedule_free_adamw' averages the weights itself, it needs ema_decay=0"
            raise ValueError(f"{rule}, however: ema_decay={self.ema_decay}")
        if self.schedule == "one_cycle" and self.schedule_every == "epoch" and self.epochs < 2:
            raise ValueError(f"a cycle of one rate per epoch needs epochs of at least 2, however: epochs={self.epochs}")
        return self

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher `metric` is better."""
        return self.direction == "higher" or (self.direction == "auto" and not self.metric.endswith("loss"))

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
