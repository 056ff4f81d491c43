"""What an original folder is written from, and its market."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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


def original_market(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "original",
        "event": {"id": "id", "time": "time", "time_unit": "s"},
        "label": {"column": "fraud", "delay_days": 1},
        "history": [{"name": "customer", "key_column": "customer", "length": config["seq_len"]}],
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
