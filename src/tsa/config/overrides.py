"""Parse `--set key=value` options into market, training and model overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsa.errors import ConfigError

if TYPE_CHECKING:
    from tsa.config.market import Market


@dataclass(frozen=True)
class Overrides:
    """The market with its overrides, and the training and model settings that differ from the defaults."""

    market: Market | None
    training: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        texts: Sequence[str] | None,
        market: Path | Market | None = None,
        *,
        learns: bool = True,
        file: Path | None = None,
    ) -> Overrides:
        """Parse key=value texts: `training.KEY` and `model.KEY` are training and model settings, all other keys the
        market's.

        Args:
            market: A market file, or a market.
            file: TOML file with the sections [training] and [model]. The texts override it.

        Raises:
            ConfigError: For a key that the command does not use: the market's without `market`, the others unless it
                `learns`.
            MarketError: For a market file or an override that breaks a rule.
        """
        from tsa.config.market import Market
        from tsa.config.toml import parse_override

        own = _tables(file)
        other_keys, unused = [], []
        for text in texts or []:
            (section, *key), value = parse_override(text)
            if section in own and len(key) == 1:
                own[section][key[0]] = value
                unused += [] if learns else [text]
            else:
                other_keys.append(text)
        unused += other_keys if market is None else []
        if unused:
            allowed = "training.KEY and model.KEY" if market is None else "the market's"
            raise ConfigError(f"this command takes {allowed} settings only (got {', '.join(unused)})")
        if market is None:
            return cls(None, **own)
        return cls(
            market.override(other_keys) if isinstance(market, Market) else Market.load(market, other_keys), **own
        )


def _tables(file: Path | None) -> dict[str, dict[str, Any]]:
    """The settings in a file by section. Raises ConfigError for an unknown section or key."""
    from tsa.config.toml import merge_layers, read_layers

    sections: dict[str, dict[str, Any]] = {"training": {}, "model": {}}
    tables = {} if file is None else merge_layers(read_layers(file, "--settings"))
    for name, table in tables.items():
        if name not in sections or not isinstance(table, dict):
            raise ConfigError(f"{file} must contain only the sections [training] and [model] (got {name})")
        sections[name] = dict(table)
    return sections
