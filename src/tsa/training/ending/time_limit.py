"""A limit on the time of a run: how many steps fit into it, when training must end, and what more time would bring."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tsa.errors import ConfigError
from tsa.text import plural
from tsa.training.config import TrainingConfig

MEASURED_STEPS = (2, 12)
"""The speed is measured between these steps of a run: the first ones are slower."""
FORWARD_SHARE = 0.6
"""Seconds to score a payment, as a share of those to train on one, until scoring was measured."""
TREE_SHARE = 0.4
"""Trees are trained first, in at most this share of the time."""
MIN_SHARE = 0.15
"""Another epoch starts if at least this share of it fits."""
MAX_DECAY = 0.7
"""Gains of later epochs are assumed to shrink at least by this factor."""
TELLING_EPOCHS = 4
"""With fewer, the gains so far do not say what later epochs gain."""


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """Time for a run, from the moment this is made.

    Args:
        minutes: For all of it.
        after: Share of the time that is left for what follows training: evaluation, comparison.
    """

    minutes: float
    after: float = 0.05
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ConfigError(f"minutes must be above 0 (got minutes={self.minutes})")

    def seconds_to_train(self) -> float:
        """Seconds until training must have ended; negative once that is past."""
        return self.began + 60.0 * self.minutes * (1.0 - self.after) - time.monotonic()

    def seconds_left(self) -> float:
        """Seconds until everything must have ended."""
        return self.began + 60.0 * self.minutes - time.monotonic()


@dataclass
class Pace:
    """Measured speed of a run.

    Args:
        steps: Of an epoch.
        validated: Payments scored after each epoch.
        finally_scored: Payments scored once, after the last epoch.
        batch_size: Payments of a step.
    """

    steps: int
    validated: int
    finally_scored: int
    batch_size: int
    seconds_per_step: float | None = None
    seconds_per_scored: float | None = None
    _first: tuple[int, float] | None = None

    def saw_step(self, number: int, seconds: float) -> bool:
        """Count step `number` of an epoch, which ended at the time `seconds`; True when the speed becomes known."""
        first, last = MEASURED_STEPS
        if number == min(first, self.steps - 1):
            self._first = (number, seconds)
        if number != min(last, self.steps) or self._first is None or self.seconds_per_step is not None:
            return False
        at, before = self._first
        self.seconds_per_step = (seconds - before) / (number - at)
        return True

    def saw_scoring(self, payments: int, seconds: float) -> None:
        """Count the scoring of some payments."""
        if payments:
            self.seconds_per_scored = seconds / payments

    @property
    def scoring(self) -> float:
        """Seconds per payment."""
        if self.seconds_per_scored is not None:
            return self.seconds_per_scored
        return FORWARD_SHARE * (self.seconds_per_step or 0.0) / self.batch_size

    @property
    def epoch_seconds(self) -> float:
        """Of an epoch with its validation."""
        return self.steps * (self.seconds_per_step or 0.0) + self.scoring * self.validated

    @property
    def closing_seconds(self) -> float:
        """Of what follows the last step: its validation, and the scores of the ranges."""
        return self.scoring * (self.validated + self.finally_scored)

    def steps_within(self, seconds: float) -> int:
        """How many steps fit into some seconds, with a validation after each epoch and the scores at the end."""
        rest = max(0.0, seconds - self.scoring * self.finally_scored)
        return int(rest / max(self.epoch_seconds, 1e-9) * self.steps)

    def another_epoch_fits(self, seconds: float) -> bool:
        """Whether enough of another epoch fits."""
        return seconds - self.closing_seconds >= MIN_SHARE * self.steps * (self.seconds_per_step or 0.0)


def outlook(epochs: Sequence[dict[str, Any]], config: TrainingConfig, pace: Pace, *, ended_by_time: bool) -> str:
    """One sentence or two on how training ended, and what more time would probably bring."""
    done, name = len(epochs), config.monitor.replace("validation_", "").replace("_", " ")
    if not ended_by_time:
        if done < config.epochs:
            return (
                f"Training ended before its time, since {name} on the validation range stopped rising: "
                "more time would probably bring nothing."
            )
        return f"All {plural(done, 'epoch')} fitted into the time."
    cut = epochs[-1].get("share_of_epoch", 1.0) if epochs else 0.0
    shown = f"{max(0, done - 1) + cut:.1f}" if cut < 1 else f"{done}"
    needed = pace.epoch_seconds * config.epochs / 60.0
    start = f"Time ended training after {shown} of {config.epochs} epochs; all of them would take about {needed:.0f} minutes."
    return f"{start} {_gain(epochs, config, name)}"


def _gain(epochs: Sequence[dict[str, Any]], config: TrainingConfig, name: str) -> str:
    sign = 1.0 if config.higher_is_better else -1.0
    values = [sign * float(epoch[config.monitor]) for epoch in epochs if epoch.get(config.monitor) is not None]
    if len(values) > 1 and max(values[:-1]) >= values[-1]:
        return f"The last epoch was no better than an earlier one ({name}): more time would probably bring little."
    if len(values) < TELLING_EPOCHS:
        return "More time would very probably help."
    gain, earlier = values[-1] - values[-2], values[-2] - values[-3]
    decay = min(MAX_DECAY, gain / earlier) if earlier > 0 else MAX_DECAY
    more = gain * sum(decay ** (1 + at) for at in range(max(1, config.epochs - len(epochs))))
    return f"The last epoch changed {name} by {sign * gain:+.3f}; the rest would probably change it by about {sign * more:+.3f}."
