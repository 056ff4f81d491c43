"""Settings of a training run, checked when made, written out whole with the run."""

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
    """The part of TrainingConfig that chooses. A setting of the chosen loss, optimiser or schedule that is not given takes
    that one's default; the settings of others stay None, and setting one is refused."""

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
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """Share of the target that is spread evenly over the classes."""
    loss_fraud_weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How many genuine payments' losses a fraud's counts as."""
    loss_gamma: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Focusing: the loss of a payment is weighted with (1 − probability of its class) to this power."""
    loss_alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Factor of the whole loss."""
    loss_gamma_pos: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Focusing of the class that is the case."""
    loss_gamma_neg: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Focusing of the classes that are not the case."""
    loss_gamma_hc: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Weight, (1 + probability) to this power, of what the network is sure of, early and late in the run."""
    loss_cycle_factor: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """The focus is sharpest after this fraction, 1 / factor, of the epochs; at 1 it only ever sharpens."""
    loss_clip: float | None = Field(default=None, ge=0, lt=1)
    """Probability by which genuine payments are shifted down: those below it count nothing."""

    optimizer: Literal["adamw", "adam", "sgd", "schedule_free_adamw"] = "adamw"
    betas: tuple[float, float] | None = None
    """Decay of the running means of the gradient and of its square."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    nesterov: bool | None = None

    lr_schedule: Literal["one_cycle", "cosine", "constant"] = "constant"
    lr_schedule_interval: Literal["step", "epoch"] = "step"
    """When the rate moves."""
    cycle_momentum: bool | None = None
    """Momentum, or the first beta, falls from 0.95 to 0.85 while the rate rises, and comes back, whatever it was set to."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Give the chosen ones their defaults; refuse what only others would read."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for kind, defaults in CHOICES.items():
            chosen = given.get(kind, cls.model_fields[kind].default)
            if not isinstance(chosen, str) or chosen not in defaults:
                continue  # refused by its own rule, which says what there is
            _refuse_foreign(given, kind, chosen)
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


def _refuse_foreign(given: Mapping[str, Any], kind: str, chosen: str) -> None:
    """Raise ValueError for a setting that the chosen one would not read: it would be without effect, and unnoticed."""
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
"""What each epoch measures and early stopping may go by; `loss` is the training's."""

WITHOUT_EFFECT = ("num_workers", "checkpoint_every_minutes", "tensorboard", "save_top_k")
"""Settings that make no difference to the weights: a run may go on with others than it began with."""


class TrainingConfig(ChoiceSettings):
    """How a network is trained. The defaults are those the handbook figures in the README were made with."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    """Payments in a step of the optimiser, over all processes together."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Parts that a batch is worked off in, one after the other: less memory, the same batch."""
    length_bucket_batches: int = Field(default=0, ge=0)
    """Batches in a window whose payments are put together by length of history, so that less is padding; 0: as drawn."""
    num_workers: int | None = Field(default=None, ge=0)
    """Processes that gather the next batches; 0 gathers each when it is needed. None: 0 on a CPU, 2 for each GPU."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """What matrix products are computed in. auto: float32 on a CPU; on a GPU bf16 where it has it, else fp16."""
    compile: bool = False
    """Compile the network for training with torch.compile."""
    learning_rate: float = Field(default=1.5e-3, gt=0, allow_inf_nan=False)
    """The highest rate of the schedule."""
    warmup_fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the steps that the rate rises."""
    weight_decay: float = Field(default=3e-2, ge=0, allow_inf_nan=False)
    """On weight matrices alone: not on biases, norms and embeddings."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    genuine_per_fraud: float = Field(default=15.0, gt=0, allow_inf_nan=False)
    """Genuine payments per fraud in an epoch, drawn anew each epoch."""
    importance_sampling_every: int = Field(default=2, ge=0)
    """From the second epoch on, and again after so many, all genuine payments are scored, and drawn by importance: those
    that look risky more often. 0: all are equally likely, always."""
    label_delay_augmentation: float = Field(default=0.5, ge=0, le=1)
    """Share of the payments drawn that learn of earlier outcomes sooner or later than in truth, after 0 to 2 times the delay
    by chance: few frauds then teach as many more would. Only training varies it; whatever is scored keeps to the delay."""
    event_dropout: float = Field(default=0.5, ge=0, le=1)
    """Share of the payments drawn of whose earlier events some are left out, up to half of them by chance. As with
    `label_delay_augmentation`, whatever is scored sees all."""
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the running average of the weights, which is what is validated and kept; 0 keeps the weights themselves.
    It settles what a constant rate leaves moving."""
    train_on: tuple[Literal["train", "validation", "calibration"], ...] = Field(default=("train",), min_length=1)
    """Ranges whose labelled payments are learned from. Adding later ranges once the settings are chosen costs their use
    as a check: early stopping on a range that is trained on is refused."""
    early_stopping: bool = True
    """Keep the weights of the epoch with the best `monitor`; otherwise those of the last epoch."""
    monitor: str = "validation_average_precision"
    """What early stopping goes by: one of METRICS."""
    monitor_mode: Literal["auto", "max", "min"] = "auto"
    """Which `monitor` is better. auto: a lower loss, a higher value of all else."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better `monitor` before training stops."""
    min_delta: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """By how much more than this a `monitor` must differ to be better."""
    save_top_k: int = Field(default=1, ge=1)
    """Of how many of the best epochs, by early stopping's `monitor`, the weights are kept in the run's folder `checkpoints`."""
    checkpoint_every_minutes: float = Field(default=10.0, gt=0, allow_inf_nan=False)
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
            raise ValueError("early_stopping needs a validation range that is not trained on, but train_on has it")
        if len(set(self.train_on)) < len(self.train_on):
            raise ValueError(f"train_on must name each range once (got {', '.join(self.train_on)})")
        if self.monitor not in METRICS:
            raise ValueError(f"monitor must be one of {', '.join(METRICS)} (got monitor={self.monitor!r})")
        if self.calibration == "sampling" and self.importance_sampling_every:
            rule = (
                "calibration='sampling' needs importance_sampling_every=0: what is drawn by "
                "importance shifts scores in another way too"
            )
            raise ValueError(f"{rule} (got importance_sampling_every={self.importance_sampling_every})")
        if self.gradient_accumulation_steps > self.batch_size:
            found = f"gradient_accumulation_steps={self.gradient_accumulation_steps}, batch_size={self.batch_size}"
            raise ValueError(f"gradient_accumulation_steps must not be above batch_size (got {found})")
        return self

    @model_validator(mode="after")
    def _validate_with_epochs(self) -> Self:
        if self.optimizer == "schedule_free_adamw" and self.ema_decay:
            rule = "optimizer='schedule_free_adamw' averages the weights itself, it needs ema_decay=0"
            raise ValueError(f"{rule} (got ema_decay={self.ema_decay})")
        if self.lr_schedule == "one_cycle" and self.lr_schedule_interval == "epoch" and self.epochs < 2:
            raise ValueError(f"a cycle of one rate per epoch needs epochs of at least 2 (got epochs={self.epochs})")
        return self

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher `monitor` is better."""
        return self.monitor_mode == "max" or (self.monitor_mode == "auto" and not self.monitor.endswith("loss"))

    def samples_by_importance(self, epoch: int) -> bool:
        """Whether genuine payments are scored before `epoch`, the first being 1."""
        return self.importance_sampling_every > 0 and epoch >= 2 and (epoch - 2) % self.importance_sampling_every == 0
