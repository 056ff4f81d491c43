"""What `--set key=value` says, sorted by whom it is for. Knows neither the commands nor what the settings mean."""

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
    """The market with its overrides, and the settings of the training and the model that differ from the defaults."""

    market: Market | None
    training: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        texts: Sequence[str] | None,
        market: Path | None = None,
        *,
        learns: bool = True,
        file: Path | None = None,
    ) -> Overrides:
        """Parse key=value texts: `training.KEY` and `model.KEY` are settings of those, all other keys the market's.

        file: TOML with the tables [training] and [model], which the texts go over.
        Raises ConfigError for a key that the command has no use for: the market's without `market`, the others unless
        it `learns`; MarketError for a market file or an override that breaks a rule.
        """
        from tsa.config.market import Market
        from tsa.config.toml import parse_override

        own = _tables(file)
        others, foreign = [], []
        for text in texts or []:
            (room, *key), value = parse_override(text)
            if room in own and len(key) == 1:
                own[room][key[0]] = value
                foreign += [] if learns else [text]
            else:
                others.append(text)
        foreign += others if market is None else []
        if foreign:
            takes = "training.KEY and model.KEY" if market is None else "the market's"
            raise ConfigError(f"this command takes {takes} settings only (got {', '.join(foreign)})")
        return cls(Market.load(market, others) if market else None, **own)


def _tables(file: Path | None) -> dict[str, dict[str, Any]]:
    """The settings in a file by room. ConfigError for a table or key that belongs in none."""
    from tsa.config.toml import merge_layers, read_layers

    rooms: dict[str, dict[str, Any]] = {"training": {}, "model": {}}
    found = {} if file is None else merge_layers(read_layers(file))
    for name, table in found.items():
        if name not in rooms or not isinstance(table, dict):
            raise ConfigError(f"{file} must hold the tables [training] and [model] (got {name})")
        rooms[name] = dict(table)
    return rooms
