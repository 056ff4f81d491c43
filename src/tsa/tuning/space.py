"""The space of a search: the settings to vary, with their ranges and choices."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tsa.config.toml import suggest
from tsa.errors import ConfigError
from tsa.model import ModelConfig
from tsa.training.config import TrainingConfig

DEFAULT = Path(__file__).with_name("space.toml")
SECTIONS: dict[str, list[str]] = {
    "training": list(TrainingConfig.model_fields),
    "model": list(ModelConfig.model_fields),
}
"""The sections of a space, and the settings that each may contain."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, inclusive; integers if both are. `log`: uniform in the logarithm."""

    low: float
    high: float
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether it contains only integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def bounds(self) -> tuple[Any, ...]:
        """The values to validate: if both ends are allowed, so are all between."""
        return self.low, self.high

    def contains(self, value: Any) -> bool:
        """Whether the value is one of these."""
        return isinstance(value, int if self.is_integer else int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    @property
    def bounds(self) -> tuple[Any, ...]:
        """The values to validate."""
        return self.values

    def contains(self, value: Any) -> bool:
        """Whether the value is one of these."""
        return value in self.values


@dataclass(frozen=True)
class Space:
    """Ranges and choices by `training.KEY` and `model.KEY`."""

    entries: Mapping[str, Range | Choice]

    @classmethod
    def read(cls, path: Path = DEFAULT) -> Self:
        """Read a TOML file with the sections [training] and [model]. Raises ConfigError for an invalid entry."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path} must be TOML (got {error})") from None
        try:
            return cls.from_dict(table)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """A space from parsed TOML. Raises ConfigError for an invalid entry."""
        entries: dict[str, Range | Choice] = {}
        for section, settings in table.items():
            if section not in SECTIONS or not isinstance(settings, dict):
                raise ConfigError(
                    f"the search space must contain only the sections {' and '.join(SECTIONS)} (got {section})"
                )
            for name, given in settings.items():
                if name not in SECTIONS[section]:
                    raise ConfigError(f"{section}.{name}: unknown key{suggest(name, SECTIONS[section])}")
                entries[f"{section}.{name}"] = _entry(f"{section}.{name}", given)
        if not entries:
            raise ConfigError("the search space must contain at least one setting (got none)")
        return cls(entries)

    def to_dict(self) -> dict[str, Any]:
        """The space as plain values."""
        return {key: dataclasses.asdict(entry) for key, entry in self.entries.items()}


def _entry(key: str, given: Any) -> Range | Choice:
    if isinstance(given, list):
        return _choice(key, given)
    if isinstance(given, dict):
        return _range(key, given)
    raise ConfigError(f"{key} must be a list of values or a table with low and high (got {given!r})")


def _choice(key: str, values: list[Any]) -> Choice:
    if len(values) < 2 or not all(isinstance(value, bool | int | float | str) for value in values):
        raise ConfigError(f"{key} must list two or more numbers, texts or truth values (got {values!r})")
    if len(set(map(repr, values))) < len(values):
        raise ConfigError(f"{key} must list each value once (got {values!r})")
    return Choice(tuple(values))


def _range(key: str, given: dict[str, Any]) -> Range:
    if unknown := sorted(set(given) - {"low", "high", "log"}):
        raise ConfigError(f"{key} takes low, high and log (got {', '.join(unknown)})")
    for end in ("low", "high"):
        value = given.get(end)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise ConfigError(f"{key}.{end} must be a number (got {value!r})")
    if not isinstance(given.get("log", False), bool):
        raise ConfigError(f"{key}.log must be true or false (got {given['log']!r})")
    made = Range(**given)
    if made.low >= made.high:
        raise ConfigError(f"{key}: low must be below high (got low={made.low}, high={made.high})")
    if made.log and made.low <= 0:
        raise ConfigError(f"{key}: log needs low above 0 (got low={made.low})")
    return made
