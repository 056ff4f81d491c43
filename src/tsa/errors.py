"""Every error that TSA raises on purpose. Each says the name, the rule and the value it met.

    TSAError
    ├── MarketError       a market file breaks a rule: file, key, rule
    ├── DataError         a log or a row cannot be used: column, value, rule
    ├── StoreError        an event store is missing, torn, or made for another market
    ├── ConfigError       a setting of the model, the training or a command is out of bounds
    ├── ModelError        weights or a batch do not fit the network
    ├── TrainingError     a run cannot go on: no fraud to learn from, a loss that is not finite
    │   └── TrainingStopped   it was asked to stop, saved a checkpoint, and can be resumed
    ├── CalibrationError  scores cannot be calibrated: too few rows or frauds, or a fit that fails its own check
    ├── BundleError       a bundle is missing a file, was changed, or has another version
    ├── HistoryError      a history store is of another market, or holds what it must not
    │   └── HistoryUnavailable  it cannot be reached, or does not answer in time
    │       └── HistoryLost     it is not the one that was used before, or lacks what it held
    ├── ServerError       the endpoint cannot go on: its workers end again and again
    └── ArtefactError     an artefact of the legacy system cannot be read, or artefacts do not fit together

All of them are the user's to act on; the command line shows their text and exits with 2. Anything else is a bug and exits with 1.
"""

from __future__ import annotations


class TSAError(Exception):
    """Base of all errors that TSA raises on purpose."""


class MarketError(TSAError):
    """A market file breaks a rule."""


class DataError(TSAError):
    """A log, or a row of one, cannot be used."""


class StoreError(TSAError):
    """An event store is missing, torn, or was made for another market."""


class ConfigError(TSAError):
    """A setting is out of bounds."""


class ModelError(TSAError):
    """Weights or a batch do not fit the network."""


class TrainingError(TSAError):
    """A training run cannot go on."""


class TrainingStopped(TrainingError):  # noqa: N818 it says what happened, and is no fault
    """A training run was asked to stop (SIGTERM) and has saved a checkpoint to go on from."""


class CalibrationError(TSAError):
    """Scores cannot be turned into probabilities or percentiles: too few rows or frauds, or a fit that fails its check."""


class BundleError(TSAError):
    """A bundle is incomplete, was changed, or has a version this program does not read."""


class ArtefactError(TSAError):
    """An artefact of the legacy system cannot be read, holds what it must not, or does not fit the others."""


class ServerError(TSAError):
    """The endpoint cannot go on."""


class HistoryError(TSAError):
    """A history store is of another market, or cannot be read as one."""


class HistoryUnavailable(HistoryError):  # noqa: N818 it says what happened
    """A history store cannot be reached, or does not answer in time."""

    def __init__(self, text: str, reason: str = "other") -> None:
        """reason: why, one of `tsa.serving.history.base.REASONS`."""
        super().__init__(text)
        self.reason = reason


class HistoryLost(HistoryUnavailable):
    """A history store is not the one that was used before, or lacks what it held."""
