"""The choices of loss, optimiser and schedule, and the settings that belong to each.

It knows no tensors: what a choice computes is in losses.py, optimisers.py and schedules.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Defaults = Mapping[str, Mapping[str, Any]]

LOSSES: Defaults = {
    "cross_entropy": {"loss_smoothing": 0.0},
    "weighted": {"loss_fraud_weight": 5.0, "loss_smoothing": 0.0},
    "focal": {"loss_gamma": 2.0, "loss_alpha": 0.25},
    "cyclical_focal": {
        "loss_gamma_pos": 1.0,
        "loss_gamma_neg": 4.0,
        "loss_gamma_hc": 2.0,
        "loss_smoothing": 0.1,
        "loss_cycle_factor": 4.0,
    },
    "asymmetric": {"loss_gamma_pos": 0.0, "loss_gamma_neg": 4.0, "loss_smoothing": 0.1},
    "asymmetric_multi_label": {"loss_gamma_pos": 1.0, "loss_gamma_neg": 4.0, "loss_clip": 0.05},
    "asl_focal": {"loss_gamma": 2.0, "loss_smoothing": 0.1},
}
"""The settings of each loss, with its defaults."""
OPTIMIZERS: Defaults = {
    "adamw": {"betas": (0.9, 0.999)},
    "adam": {"betas": (0.9, 0.999)},
    "sgd": {"momentum": 0.9, "nesterov": False},
    "schedule_free_adamw": {"betas": (0.9, 0.999)},
}
SCHEDULES: Defaults = {"one_cycle": {"cycle_momentum": True}, "cosine": {}, "constant": {}}
CHOICES: Mapping[str, Defaults] = {"loss": LOSSES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}


class Choices(BaseModel):
    """The part of TrainingConfig that chooses. A setting of the chosen loss, optimiser or schedule that is not given takes
    that one's default; the settings of others stay None, and setting one is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal[
        "cross_entropy",
        "weighted",
        "focal",
        "cyclical_focal",
        "asymmetric",
        "asymmetric_multi_label",
        "asl_focal",
    ] = "cross_entropy"
    loss_smoothing: float | None = Field(default=None, ge=0, lt=1)
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

    schedule: Literal["one_cycle", "cosine", "constant"] = "constant"
    schedule_every: Literal["step", "epoch"] = "step"
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
    def _validate_optimizer(self) -> Choices:
        for beta in self.betas or ():
            if not 0 <= beta < 1:
                raise ValueError(f"betas must lie in [0, 1), however: {self.betas}")
        if self.nesterov and not (self.momentum or self.cycle_momentum):
            raise ValueError(f"nesterov needs a momentum above 0, however: momentum={self.momentum}")
        if self.optimizer == "schedule_free_adamw" and self.schedule != "constant":
            raise ValueError(
                f"optimizer='schedule_free_adamw' needs schedule='constant', however: schedule={self.schedule!r}"
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
        raise ValueError(f"{name} needs {kind}={owners}, however: {kind}={chosen!r}, {name}={given[name]!r}")
