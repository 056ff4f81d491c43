"""From a store to the settings of a network for it. Knows sizes; no tensors, no training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.model import ModelConfig, preset


def network_settings(store: EventStore, name: str, settings: Mapping[str, Any]) -> ModelConfig:
    """The preset `name`, at the sizes of the store and with `settings` of one's own. ConfigError for what does not fit."""
    market, sizes = store.market, network_sizes(store.market, store.encoder)
    if not (sizes["n_categorical"] or sizes["n_numerical"]):
        rule = "[features] must name a categorical, calendar or numerical feature (got none)"
        raise ConfigError(f"{rule}: without one a history tells nothing; name what the payments have")
    if given := sorted({*sizes, "name"} & set(settings)):
        raise ConfigError(f"model.{given[0]} comes with the store, it cannot be set")
    config = preset(name, **sizes, **settings)
    if config.event_embedding != "sum":
        return config
    # calendar features come last and are left out: that another payment was made at the same hour says little
    ours = {
        "known_outcomes": market.label.as_feature,
        "n_match_features": len(market.features.categorical),
        "n_missing_indicators": store.encoder.numerical_scaling.n_missing_indicators,
    }
    return config.replace(**{key: value for key, value in ours.items() if key not in settings})


def network_sizes(market: Market, encoder: Encoder) -> dict[str, Any]:
    """The settings of a network that come with the market and its encoder."""
    n_numerical = len(encoder.numerical_names)
    return {
        "histories": [history.name for history in market.history],
        "n_categorical": len(encoder.categorical_names),
        "n_numerical": n_numerical,
        "n_engineered": len(encoder.engineered_names),
        # the table holds the encoder's rows but padding's, which it adds itself, and a row per numerical feature
        "n_embedding": encoder.n_rows - 1 + n_numerical,
        **({} if market.wire is None else {"age_cap_seconds": market.wire.age_cap_seconds}),
    }
