"""The space of a search: which settings are tried, and between which ends. Knows nothing of how it is searched."""

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
"""The tables of a space, and the settings that each may name."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """All numbers from `low` to `high`, both included; whole ones if both are. `log`: evenly in the logarithm."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def bounds(self) -> tuple[Any, ...]:
        """What must be allowed, if all between is to be."""
        return self.low, self.high

    def contains(self, value: Any) -> bool:
        """Whether the value is one of these."""
        return isinstance(value, int if self.whole else int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    @property
    def bounds(self) -> tuple[Any, ...]:
        """What must be allowed."""
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
        """Read a TOML file with the tables [training] and [model]. ConfigError for what cannot be searched."""
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
        """A space as TOML holds it. ConfigError names the entry, the rule and the value."""
        entries: dict[str, Range | Choice] = {}
        for room, settings in table.items():
            if room not in SECTIONS or not isinstance(settings, dict):
                raise ConfigError(f"a space has the tables {' and '.join(SECTIONS)} (got {room})")
            for name, given in settings.items():
                if name not in SECTIONS[room]:
                    raise ConfigError(f"{room}.{name}: unknown key{suggest(name, SECTIONS[room])}")
                entries[f"{room}.{name}"] = _entry(f"{room}.{name}", given)
        if not entries:
            raise ConfigError("a space must name a setting to search, but it is empty")
        return cls(entries)

    def to_dict(self) -> dict[str, Any]:
        """The space as plain values, to be compared and kept."""
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
