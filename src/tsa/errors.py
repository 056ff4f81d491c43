"""Every error that TSA raises on purpose. Each says the name, the rule and the value it met.

    TSAError
    ├── MarketError       a market file breaks a rule: file, key, rule
    ├── DataError         a log or a row cannot be used: column, value, rule
    ├── StoreError        an event store is missing, torn, or made for another market
    ├── ConfigError       a setting of the model, the training or a command is out of bounds
    ├── ModelError        weights or a batch do not fit the network
    ├── TrainingError     a run cannot go on: no fraud to learn from, a loss that is not finite
    └── BundleError       a bundle is missing a file, was changed, or has another version

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


class BundleError(TSAError):
    """A bundle is incomplete, was changed, or has a version this program does not read."""
