"""The errors that TSA raises deliberately. Each names the field, the rule and the value.

    TSAError
    ├── MarketError       a market file breaks a rule: file, key, rule
    ├── DataError         a log or a row cannot be used: column, value, rule
    ├── StoreError        an event store is missing, incomplete, or made for another market
    ├── ConfigError       a setting of the model, the training or a command is out of bounds
    ├── ModelError        weights or a batch do not fit the network
    ├── TrainingError     a run cannot continue: no fraud in the training range, a loss that is not finite
    │   └── TrainingStopped   the run was asked to stop, saved a checkpoint, and can be resumed
    ├── CalibrationError  scores cannot be calibrated: too few rows or frauds, or a fit that fails its check
    ├── BundleError       a bundle is missing a file, was changed, or has another version
    ├── RegistryError     a registry has no such version or alias, cannot be reached, or was changed by somebody else
    ├── HistoryError      a history store is for another market, or has invalid content
    │   └── HistoryUnavailable  it cannot be reached, or does not answer in time
    │       └── HistoryLost     it is not the store used before, or has lost data
    ├── ClusterError      a cluster cannot be reached, or its workers keep ending
    ├── ServerError       the endpoint cannot continue: its workers keep ending
    └── ArtefactError     an artefact of the legacy system cannot be read, or artefacts do not fit together

The user can act on all of them: the command line shows the text and exits with 2. Any other error is a bug and exits with 1.
"""

from __future__ import annotations


class TSAError(Exception):
    """Base class of all errors that TSA raises deliberately.

    Example:
        >>> try:
        ...     tsa.TrainingConfig(epochs=0)
        ... except tsa.TSAError as error:
        ...     print(f"{type(error).__name__}: {error}")
        ConfigError: training.epochs: must be at least 1 (got 0)
    """


class MarketError(TSAError):
    """A market file breaks a rule."""


class DataError(TSAError):
    """A log, or a row of one, cannot be used."""


class StoreError(TSAError):
    """An event store is missing, incomplete, or was made for another market."""


class ConfigError(TSAError):
    """A setting is out of bounds."""


class ModelError(TSAError):
    """Weights or a batch do not fit the network."""


class TrainingError(TSAError):
    """A training run cannot continue."""


class TrainingStopped(TrainingError):  # noqa: N818 named for the event; it is not an error
    """A training run was asked to stop (by a signal) and has saved a checkpoint, from which it can be resumed."""

    signal_number: int = 15
    """The signal, SIGTERM unless another is known."""


class CalibrationError(TSAError):
    """Scores cannot be turned into probabilities or percentiles: too few rows or frauds, or a fit that fails its check."""


class BundleError(TSAError):
    """A bundle is incomplete, was changed, or has an unsupported version."""


class ArtefactError(TSAError):
    """An artefact of the legacy system cannot be read, has forbidden content, or does not fit the others."""


class ClusterError(TSAError):
    """A cluster cannot be reached, or its workers keep ending."""


class ServerError(TSAError):
    """The endpoint cannot continue."""


class RegistryError(TSAError):
    """A registry has no such version or alias, cannot be reached, or was changed by somebody else at the same time."""


class HistoryError(TSAError):
    """A history store is for another market, or cannot be read as a history store."""


class HistoryUnavailable(HistoryError):  # noqa: N818 named for the event
    """A history store cannot be reached, or does not answer in time."""

    def __init__(self, text: str, reason: str = "other") -> None:
        """reason: why, one of `tsa.serving.history.base.REASONS`."""
        super().__init__(text)
        self.reason = reason


class HistoryLost(HistoryUnavailable):
    """A history store is not the one used before, or has lost data."""
