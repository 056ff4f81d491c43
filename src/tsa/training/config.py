"""Settings of a training run, checked when they are made and saved with the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tsa.config.settings import Settings

Defaults = Mapping[str, Mapping[str, Any]]

LOSSES: Defaults = {
    "cross_entropy": {"label_smoothing": 0.0},
    "weighted": {"loss_fraud_weight": 5.0, "label_smoothing": 0.0},
    "focal": {"loss_gamma": 2.0, "loss_alpha": 0.25},
    "cyclical_focal": {
        "loss_gamma_pos": 1.0,
        "loss_gamma_neg": 4.0,
        "loss_gamma_hc": 2.0,
        "label_smoothing": 0.1,
        "loss_cycle_factor": 4.0,
    },
    "asymmetric": {"loss_gamma_pos": 0.0, "loss_gamma_neg": 4.0, "label_smoothing": 0.1},
    "asymmetric_multi_label": {"loss_gamma_pos": 1.0, "loss_gamma_neg": 4.0, "loss_clip": 0.05},
    "asl_focal": {"loss_gamma": 2.0, "label_smoothing": 0.1},
}
"""The settings of each loss, with its defaults."""
OPTIMIZERS: Defaults = {
    "adamw": {"betas": (0.9, 0.999)},
    "adam": {"betas": (0.9, 0.999)},
    "sgd": {"momentum": 0.9, "nesterov": False},
    "schedule_free_adamw": {"betas": (0.9, 0.999)},
}
SCHEDULES: Defaults = {"one_cycle": {"cycle_momentum": True}, "cosine": {}, "constant": {}}
CHOICES: Mapping[str, Defaults] = {"loss": LOSSES, "optimizer": OPTIMIZERS, "lr_schedule": SCHEDULES}


class ChoiceSettings(Settings):
    """Loss, optimiser and schedule. Settings of the chosen ones have defaults; settings of the others are None and refused."""

    model_config = ConfigDict(allow_inf_nan=True)
    section: ClassVar[str] = "training"

    loss: Literal[
        "cross_entropy",
        "weighted",
        "focal",
        "cyclical_focal",
        "asymmetric",
        "asymmetric_multi_label",
        "asl_focal",
    ] = "cross_entropy"
    """Loss function; the [formulas](training-losses.md) are listed there."""
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """Share of the target that is spread evenly over the classes."""
    loss_fraud_weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """`weighted`: how many times the loss of a fraud counts."""
    loss_gamma: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """`focal`, `asl_focal`: focusing exponent of the factor (1 − probability of the true class)."""
    loss_alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """`focal`: factor of the loss."""
    loss_gamma_pos: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Focusing exponent of the true class."""
    loss_gamma_neg: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Focusing exponent of the other classes."""
    loss_gamma_hc: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """`cyclical_focal`: exponent of (1 + probability), which favours confident predictions early and late in the
    run."""
    loss_cycle_factor: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """`cyclical_focal`: focusing is strongest after 1 / factor of the epochs; at 1 it only increases."""
    loss_clip: float | None = Field(default=None, ge=0, lt=1)
    """`asymmetric_multi_label`: amount subtracted from the fraud probability of genuine payments; those below it have
    no loss."""

    optimizer: Literal["adamw", "adam", "sgd", "schedule_free_adamw"] = "adamw"
    """Optimiser."""
    betas: tuple[float, float] | None = None
    """`adamw`, `adam`, `schedule_free_adamw`: decay of the running means of the gradient and of its square."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """`sgd`: momentum."""
    nesterov: bool | None = None
    """`sgd`: use Nesterov momentum; needs `momentum` above 0."""

    lr_schedule: Literal["one_cycle", "cosine", "constant"] = "constant"
    """Learning-rate schedule; `schedule_free_adamw` needs `constant`."""
    lr_schedule_interval: Literal["step", "epoch"] = "step"
    """Change the learning rate after each step or after each epoch."""
    cycle_momentum: bool | None = None
    """`one_cycle`: momentum, or the first beta, falls from 0.95 to 0.85 while the rate rises, then rises again."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Fill in the defaults of the chosen loss, optimiser and schedule; refuse settings of others."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for kind, defaults in CHOICES.items():
            chosen = given.get(kind, cls.model_fields[kind].default)
            if not isinstance(chosen, str) or chosen not in defaults:
                continue  # refused by the rule of that setting
            _refuse_unused(given, kind, chosen)
            filled |= {name: value for name, value in defaults[chosen].items() if given.get(name) is None}
        return filled

    @model_validator(mode="after")
    def _validate_optimizer(self) -> ChoiceSettings:
        for beta in self.betas or ():
            if not 0 <= beta < 1:
                raise ValueError(f"betas must lie in [0, 1) (got {self.betas})")
        if self.nesterov and not (self.momentum or self.cycle_momentum):
            raise ValueError(f"nesterov needs a momentum above 0 (got momentum={self.momentum})")
        if self.optimizer == "schedule_free_adamw" and self.lr_schedule != "constant":
            raise ValueError(
                f"optimizer='schedule_free_adamw' needs lr_schedule='constant' (got lr_schedule={self.lr_schedule!r})"
            )
        return self


def _refuse_unused(given: Mapping[str, Any], kind: str, chosen: str) -> None:
    """Raise ValueError for a setting that the chosen loss, optimiser or schedule would silently ignore."""
    defaults = CHOICES[kind]
    every = sorted({name for names in defaults.values() for name in names})
    for name in every:
        if name in defaults[chosen] or given.get(name) is None:
            continue
        owners = " or ".join(repr(other) for other, names in defaults.items() if name in names)
        raise ValueError(f"{name} needs {kind}={owners} (got {kind}={chosen!r}, {name}={given[name]!r})")


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
"""What each epoch measures and early stopping may use; `loss` is the training's."""

WITHOUT_EFFECT = ("num_workers", "checkpoint_every_minutes", "tensorboard", "save_top_k")
"""Settings that make no difference to the weights: a resumed run may change them."""


class TrainingConfig(ChoiceSettings):
    """How a network is trained. The defaults are those behind the handbook results in the README.

    Example:
        >>> config = tsa.TrainingConfig(epochs=3, loss="focal")
        >>> config.epochs, config.loss_gamma, config.learning_rate
        (3, 2.0, 0.0015)
    """

    epochs: int = Field(default=10, ge=1)
    """Maximum number of epochs."""
    batch_size: int = Field(default=256, ge=1)
    """Payments per optimiser step, over all processes together."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Split each batch into this many parts, computed one after the other; needs less memory and gives the same
    batch."""
    length_bucket_batches: int = Field(default=0, ge=0)
    """Number of batches whose payments are sorted by history length, so that there is less padding; 0: off."""
    num_workers: int | None = Field(default=None, ge=0)
    """Processes that prepare the next batches. 0: in the main process. none: 0 on a CPU, 2 per GPU."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Precision of matrix products. `auto`: float32 on a CPU; on a GPU bf16 if it supports it, otherwise fp16."""
    compile: bool = False
    """Compile the network with `torch.compile`."""
    learning_rate: float = Field(default=1.5e-3, gt=0, allow_inf_nan=False)
    """Highest learning rate of the schedule."""
    warmup_fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(default=3e-2, ge=0, allow_inf_nan=False)
    """Weight decay of weight matrices; biases, norms and embeddings have none."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    genuine_per_fraud: float = Field(default=15.0, gt=0, allow_inf_nan=False)
    """Genuine payments per fraud in an epoch; they are sampled again for each epoch."""
    importance_sampling_every: int = Field(default=2, ge=0)
    """From epoch 2, and then every N epochs, score the genuine payments and sample the risky ones more often; 0:
    sample uniformly."""
    label_delay_augmentation: float = Field(default=0.5, ge=0, le=1)
    """Share of training payments that see earlier outcomes with a random delay of 0 to 2 times the real one. Scoring
    always uses the real delay."""
    event_dropout: float = Field(default=0.5, ge=0, le=1)
    """Share of training payments that lose some earlier events at random, up to half of them. Scoring always uses all
    events."""
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the running average of the weights, which is the model that is validated and saved; 0: no
    averaging."""
    train_on: tuple[Literal["train", "validation", "calibration"], ...] = Field(default=("train",), min_length=1)
    """Ranges to train on. Early stopping needs a validation range that is not trained on."""
    early_stopping: bool = True
    """Keep the weights of the epoch with the best `monitor`; otherwise those of the last epoch."""
    monitor: str = "validation_average_precision"
    """The metric for early stopping: `validation_average_precision`, `validation_roc_auc`, `validation_loss`,
    `validation_accuracy`, `validation_precision`, `validation_recall`, `validation_f1` or `loss`."""
    monitor_mode: Literal["auto", "max", "min"] = "auto"
    """Which direction of `monitor` is better. `auto`: a lower loss, a higher value of everything else."""
    n_trees: int | None = Field(default=None, ge=1)
    """Trees of each model of trees. none: as many as improve average precision on the validation range."""
    n_deep_trees: int | None = Field(default=None, ge=0)
    """How many of the models of trees have deep trees. none: two in five, if the validation range has few frauds and
    is ranked better with them."""
    patience: int = Field(default=3, ge=1)
    """Epochs without improvement before training stops."""
    min_delta: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Smallest change of `monitor` that counts as an improvement."""
    save_top_k: int = Field(default=1, ge=1)
    """Number of best epochs whose weights are saved in `checkpoints`."""
    checkpoint_every_minutes: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Write a checkpoint at this interval, in addition to the one at the end of each epoch."""
    calibration: Literal["bspline", "isotonic", "platt", "beta", "sampling"] = "bspline"
    """How probabilities are fitted on the calibration range after training ([scores](../concepts/scores.md)); `sampling` needs
    `importance_sampling_every` 0."""
    tensorboard: bool = False
    """Write metrics for TensorBoard to the folder `tensorboard` of the run."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Random seed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on."""

    @model_validator(mode="after")
    def _validate_combinations(self) -> Self:
        if self.early_stopping and "validation" in self.train_on:
            raise ValueError(
                f"early_stopping needs a validation range that is not trained on (got train_on={self.train_on})"
            )
        if len(set(self.train_on)) < len(self.train_on):
            raise ValueError(f"train_on must name each range once (got {', '.join(self.train_on)})")
        if self.monitor not in METRICS:
            raise ValueError(f"monitor must be one of {', '.join(METRICS)} (got monitor={self.monitor!r})")
        if self.calibration == "sampling" and self.importance_sampling_every:
            rule = (
                "calibration='sampling' needs importance_sampling_every=0: importance "
                "sampling changes scores in a way that it cannot correct"
            )
            raise ValueError(f"{rule} (got importance_sampling_every={self.importance_sampling_every})")
        if self.gradient_accumulation_steps > self.batch_size:
            got = f"gradient_accumulation_steps={self.gradient_accumulation_steps}, batch_size={self.batch_size}"
            raise ValueError(f"gradient_accumulation_steps must not be above batch_size (got {got})")
        return self

    @model_validator(mode="after")
    def _validate_with_epochs(self) -> Self:
        if self.optimizer == "schedule_free_adamw" and self.ema_decay:
            rule = "optimizer='schedule_free_adamw' averages the weights itself, it needs ema_decay=0"
            raise ValueError(f"{rule} (got ema_decay={self.ema_decay})")
        if self.lr_schedule == "one_cycle" and self.lr_schedule_interval == "epoch" and self.epochs < 2:
            raise ValueError(
                f"lr_schedule='one_cycle' with lr_schedule_interval='epoch' needs epochs of at least 2 (got epochs={self.epochs})"
            )
        return self

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher `monitor` is better."""
        return self.monitor_mode == "max" or (self.monitor_mode == "auto" and not self.monitor.endswith("loss"))

    def samples_by_importance(self, epoch: int) -> bool:
        """Whether genuine payments are scored before `epoch`, the first being 1."""
        return self.importance_sampling_every > 0 and epoch >= 2 and (epoch - 2) % self.importance_sampling_every == 0
