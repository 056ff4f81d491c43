from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from tsa.errors import ConfigError
from tsa.model import ModelConfig, TSANetwork, preset


def test_presets_hold_the_production_sizes():
    eu, na = preset("reference"), preset("reference-two-history")
    assert (eu.n_categorical, eu.n_numerical, eu.n_engineered, eu.n_embedding) == (108, 51, 413, 2403)
    assert (na.n_categorical, na.n_numerical, na.n_engineered, na.n_embedding) == (109, 67, 297, 2070)
    assert na.histories == ("cid", "ccid")
    for config in (eu, na):
        assert (config.width, config.n_heads, config.n_order_layers, config.n_feature_layers) == (64, 1, 6, 4)
        assert (config.event_width, config.ensemble_width) == (128, 192)


def test_default_takes_the_sizes_of_a_market():
    config = preset("default", n_categorical=2, n_numerical=1, n_embedding=40, histories=["customer", "terminal"])
    assert config.event_width == config.width
    assert config.histories == ("customer", "terminal")
    TSANetwork(config)


def test_settings_go_through_json(small):
    config = small(histories=("a", "b"), dropout=0.25, experts_in=("order",))
    assert ModelConfig.make(json.loads(json.dumps(config.to_dict()))) == config
    assert config.replace(width=16).width == 16


def test_settings_are_frozen_and_keyword_only(small):
    with pytest.raises(ValidationError):
        small().width = 3
    with pytest.raises(TypeError):
        ModelConfig(1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_heads": 3, "width": 64}, r"n_heads must divide width [(]got n_heads=3, width=64"),
        ({"n_classes": 1}, r"model.n_classes: must be at least 2 [(]got 1"),
        ({"width": 8.0}, r"model.width: must be a whole number [(]got 8.0"),
        ({"n_experts": True}, "model.n_experts: must be a whole number [(]got True"),
        ({"norm": "middle"}, r"model.norm: must be post or pre [(]got 'middle'"),
        ({"dropout": 1.0}, "model.dropout: must be below 1 [(]got 1.0"),
        ({"histories": ()}, "histories must be one or more different names"),
        ({"histories": ("a", "a")}, "histories must be one or more different names"),
        ({"n_embedding": 2}, r"n_embedding must be at least n_numerical [(]got n_embedding=2, n_numerical=3"),
        ({"n_categorical": 0, "n_numerical": 0}, "at least one categorical or numerical feature"),
        ({"known_outcomes": True}, "known_outcomes needs event_embedding='sum'"),
        ({"n_experts": 4, "n_expert_groups": 3}, "n_expert_groups must divide n_experts"),
        ({"experts_in": ("head",)}, "model.experts_in, entry 1: must be order, feature or gate"),
        ({"mlp": True, "n_numerical": 0, "n_engineered": 0}, "mlp needs"),
        ({"balance_weight": -1.0}, "model.balance_weight: must be at least 0"),
        ({"frequency_scale": 0.0}, "model.frequency_scale: must be above 0"),
        ({"gate_threshold": 1.5}, "model.gate_threshold: must be below 1"),
    ],
)
def test_what_is_out_of_bounds_is_refused(changes, text, small):
    with pytest.raises(ConfigError, match=text):
        small(**changes)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"preset must be one of reference, .* [(]got preset='best'"):
        preset("best")
    with pytest.raises(ConfigError, match=r"model.heads: unknown key"):
        preset("reference", heads=2)
    with pytest.raises(
        ConfigError,
        match=r"model.n_categorical: is required; model.n_numerical: is required; model.n_embedding: is required",
    ):
        preset("default")
