"""What an original folder is written from, and its market."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from tsa.config.market import Market

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Original:
    """What the folder was written from."""

    folder: Path
    market: Market
    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    cat_to_index: dict[str, dict[str, str]]
    defaults: dict[str, str]
    preprocessor: dict[str, list[float]]
    scores: dict[str, Any]


def legacy_market(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "original",
        "event": {"id": "id", "time": "time", "time_unit": "s"},
        "label": {"column": "fraud", "delay_days": 1},
        "history": [{"name": "customer", "key": "customer", "length": config["seq_len"]}],
        "features": {
            "categorical": [f"c{i}" for i in range(config["n_cat_features"])],
            "numerical": [f"n{i}" for i in range(config["n_num_features"])],
            "engineered": [f"g{i}" for i in range(config["n_engineered_num_features"])],
        },
        **changes,
    }


def market_toml(market: Market) -> str:
    """The market as a file."""
    table = market.to_dict()
    tables = {name: table[name] for name in ("event", "label")}
    lines = [f'name = "{market.name}"']
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    for history in table["history"]:
        lines += ["[[history]]", *(f"{key} = {json.dumps(value)}" for key, value in history.items())]
    kinds = ("categorical", "numerical", "engineered")
    lines += ["[features]", *(f"{kind} = {json.dumps([f['name'] for f in table['features'][kind]])}" for kind in kinds)]
    return "\n".join(lines) + "\n"


def wire_rows(original: Original, payments: pl.DataFrame) -> pl.DataFrame:
    """The same payments as rows that carry their own history, every value a text, missing ones in either spelling."""
    features = original.market.features
    rows = payments.to_dicts()
    shown = [
        {k: ("", "My Text String")[at % 2] if v is None else str(v) for k, v in row.items()}
        for at, row in enumerate(rows)
    ]
    parts = {"cat": [f.name for f in features.categorical], "num": [f.name for f in features.numerical]}
    made = []
    for at, row in enumerate(rows):
        earlier = [shown[i] for i in range(at) if rows[i]["customer"] == row["customer"]][-20:]
        fields = {f"hist.{name}": name for names in parts.values() for name in names}
        fields |= {f"hist.{part}.{name}": name for part in parts for name in ("time", "id")}
        made.append(shown[at] | {field: "~".join(event[name] for event in earlier) for field, name in fields.items()})
    return pl.DataFrame(made)


START = 1_700_000_000


@pytest.fixture
def original(tmp_path: Path, golden_scores: dict[str, Any]) -> Original:
    return write_original(tmp_path / "original", golden_scores)


def write_original(folder: Path, golden_scores: dict[str, Any]) -> Original:
    """Write a legacy model of made-up artefacts into a new folder."""
    folder.mkdir()
    config = json.loads((GOLDEN / "single.config.json").read_text())
    state = load_file(GOLDEN / "single.weights.safetensors")
    market = Market.from_dict(legacy_market(config))
    generator = np.random.default_rng(0)
    last = config["n_embedding"] - config["n_num_features"]
    names = [feature.name for feature in market.features.categorical]
    # rows in no order, with gaps, shared by several values, and some of known values on row 0
    rows = {
        name: dict(zip(["-1", "a", "b", "c d"], map(str, generator.integers(0, last + 1, 4)), strict=True))
        for name in names
    }
    rows["c0"] |= {"a": "0", "top": str(last)}
    defaults = dict.fromkeys(names, "-1") | {"c1": "not in the map", "time": "0", "id": ""}
    defaults |= {
        f.name: str(generator.integers(-1, 2)) for f in (*market.features.numerical, *market.features.engineered)
    }
    preprocessor = {
        "seq_num_scale_": generator.random(config["n_num_features"]),
        "seq_num_min_": generator.random(config["n_num_features"]) - 0.5,
        "num_static_scale_": generator.random(config["n_engineered_num_features"]).tolist(),
        "num_static_min_": generator.random(config["n_engineered_num_features"]).tolist(),
    }
    torch.save({f"module.{name}": value for name, value in state.items()}, folder / "best.pt")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "cat_to_index.json").write_text(json.dumps(rows))
    (folder / "default_value_dict.json").write_text(json.dumps(defaults))
    (folder / "preprocessor.pkl").write_bytes(pickle.dumps(preprocessor))
    (folder / "percentile_score.pkl").write_bytes(pickle.dumps(golden_scores["percentile_score"]))
    (folder / "bspline_parameters.json").write_text(json.dumps(golden_scores["bspline_parameters"]))
    return Original(folder, market, config, state, rows, defaults, preprocessor, golden_scores)


@pytest.fixture
def payments(original: Original) -> pl.DataFrame:
    return some_payments(original)


def some_payments(original: Original) -> pl.DataFrame:
    """600 payments of 40 customers in time order, with missing and unknown values."""
    generator, n = np.random.default_rng(1), 600

    def some(values: Any, missing: float) -> list[Any]:
        return [None if gone else value for value, gone in zip(values, generator.random(n) < missing, strict=True)]

    features = original.market.features
    columns: dict[str, Any] = {
        "id": np.arange(n),
        "time": START + np.cumsum(generator.integers(1, 20_000, n)),
        "customer": generator.integers(0, 40, n),
        "fraud": np.zeros(n, np.int8),
    }
    for feature in features.categorical:
        columns[feature.name] = some(generator.choice(["-1", "a", "b", "c d", "never seen"], n).tolist(), 0.1)
    for feature in (*features.numerical, *features.engineered):
        columns[feature.name] = some(generator.normal(size=n).round(3).tolist(), 0.1)
    return pl.DataFrame(columns)
