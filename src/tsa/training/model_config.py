"""The settings of a network for a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.key_roles import compared_keys
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.model import ModelConfig, preset


def network_settings(store: EventStore, name: str, settings: Mapping[str, Any]) -> ModelConfig:
    """The preset `name` with the sizes of the store and other `settings`.

    Raises:
        ConfigError: If a setting breaks a rule or comes with the store.
    """
    return _settings(store.market, store.encoder, name, settings)


def chosen_settings(config: ModelConfig, name: str, market: Market, encoder: Encoder) -> dict[str, Any]:
    """The settings by which a network differs from the preset `name` for its market: those to train it again with."""
    made, default = config.to_dict(), _settings(market, encoder, name, {}).to_dict()
    return {key: value for key, value in made.items() if key != "name" and value != default.get(key)}


def _settings(market: Market, encoder: Encoder, name: str, settings: Mapping[str, Any]) -> ModelConfig:
    sizes = network_sizes(market, encoder)
    if not (sizes["n_categorical"] or sizes["n_numerical"]):
        rule = "[features] must name a categorical, calendar or numerical feature (got none)"
        raise ConfigError(f"{rule}; name those of the log's columns that describe a payment")
    if given := sorted({*sizes, "name"} & set(settings)):
        raise ConfigError(f"model.{given[0]} must not be set (got {settings.get(given[0])!r}); it comes with the store")
    config = preset(name, **sizes, **settings)
    if config.event_embedding != "sum":
        return config
    n_keys = len(compared_keys(market))
    if config.n_match_keys not in (0, n_keys):
        rule = f"model.n_match_keys must be 0 or {n_keys}, the number of keys of the market that are compared"
        raise ConfigError(f"{rule} (got {config.n_match_keys})")
    # without calendar features, which are last: another payment at the same hour means little
    from_store = {
        "known_outcomes": market.label.as_feature,
        "n_match_features": len(market.features.categorical),
        "n_match_keys": n_keys,
        "n_missing_indicators": encoder.numerical_scaling.n_missing_indicators,
    }
    return config.replace(**{key: value for key, value in from_store.items() if key not in settings})


def network_sizes(market: Market, encoder: Encoder) -> dict[str, Any]:
    """The settings of a network that the market and its encoder determine."""
    n_numerical = len(encoder.numerical_names)
    return {
        "histories": [view.name for view in market.views],
        "n_categorical": len(encoder.categorical_names),
        "n_numerical": n_numerical,
        "n_engineered": len(encoder.engineered_names),
        # the encoder's rows except padding, which the table adds, and a row per numerical feature
        "n_embedding": encoder.n_rows - 1 + n_numerical,
        **({} if market.wire is None else {"age_cap_seconds": market.wire.age_cap_seconds}),
    }
