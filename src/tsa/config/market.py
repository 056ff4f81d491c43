"""`Market`: the columns of a payment log and what they mean, loaded, validated and fingerprinted.

Use `Market.load`. The rules between sections are in `tsa.config.validation`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from tsa.config import toml
from tsa.config.derived import Derived
from tsa.config.input import Input, Joined
from tsa.config.legacy import LegacyArtifacts
from tsa.config.market_tables import MarketTables
from tsa.config.optional_tables import Privacy, Serving, Trees
from tsa.config.promotion import Promotion
from tsa.config.reason_texts import Reasons
from tsa.config.split import SPLITS, Split
from tsa.config.tables import (
    Categorical,
    Evaluation,
    Event,
    Exclude,
    Features,
    HistoryConfig,
    HistoryView,
    Label,
    Monitoring,
    Numerical,
)
from tsa.config.validation import findings
from tsa.config.wire import InlineHistory
from tsa.errors import MarketError

__all__ = [
    "SPLITS",
    "Categorical",
    "Derived",
    "Evaluation",
    "Event",
    "Exclude",
    "Features",
    "HistoryConfig",
    "HistoryView",
    "InlineHistory",
    "Input",
    "Joined",
    "Label",
    "LegacyArtifacts",
    "Market",
    "Monitoring",
    "Numerical",
    "Privacy",
    "Promotion",
    "Reasons",
    "Serving",
    "Split",
    "Trees",
]


class Market(MarketTables):
    """A validated market file. Make one with `Market.load`; equal meaning gives an equal `fingerprint`.

    Example:
        >>> market = tsa.Market.load("market.toml", ["history.0.length=20"])
        >>> market.name
        'demo'
        >>> [(history.name, history.length) for history in market.history]
        [('customer', 20), ('terminal', 51)]
    """

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if broken := list(findings(self)):
            raise ValueError("\n".join(broken))
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Market:
        """Read a market file, the files it extends, and `key=value` overrides.

        Raises:
            MarketError: Lists every error.
        """
        layers = toml.read_layers(Path(path))
        for text in overrides:
            layers.append(toml.override_layer(text, toml.merge_layers(layers, _join)))
        return _checked(toml.merge_layers(layers, _join), str(path), layers)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Market:
        """The market that `to_dict` wrote. Raises MarketError."""
        return _checked(dict(table), "market", [toml.Layer(origin="market", table=dict(table))])

    def override(self, texts: Sequence[str]) -> Market:
        """This market with `key=value` overrides. Raises MarketError, which lists every error."""
        layers = [toml.Layer(origin=f"market {self.name}", table=self.to_dict())]
        for text in texts:
            layers.append(toml.override_layer(text, toml.merge_layers(layers, _join)))
        return _checked(toml.merge_layers(layers, _join), f"market {self.name}", layers)

    def to_dict(self) -> dict[str, Any]:
        """The market as plain JSON values, with defaults filled in."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def canonical_dict(self) -> dict[str, Any]:
        """The part that defines the market, as plain JSON values: all but `[reasons]`, `[serving]`, `[trees]`, `[legacy]`
        and `[promotion]`."""
        left_out = ("reasons", "serving", "trees", "legacy", "promotion")
        table = {key: value for key, value in self.to_dict().items() if key not in left_out}
        if self.reading.decimal == ".":  # as without it: it only stops guessing
            table["input"].pop("decimal")
            if table["input"] == Input().model_dump(mode="json", exclude_none=True):
                table.pop("input")
        return table

    @property
    def fingerprint(self) -> str:
        """sha256 of `canonical_dict`. Key order, comments, `extends` and the format of dates have no effect."""
        text = json.dumps(
            self.canonical_dict, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    @property
    def retention_seconds(self) -> float:
        """Events older than this, seen from the current payment, are not part of its history."""
        return math.inf if self.privacy is None else self.privacy.retention_seconds

    @property
    def entity(self) -> HistoryView:
        """The history whose keys the report ranks."""
        return next(view for view in self.views if self.evaluation.entity in (None, view.name))


def _join(lower: toml.Table, upper: toml.Table) -> toml.Table:
    """Merge, but let one form of a split replace the other, since both together are invalid."""
    below, above = lower.get("split"), upper.get("split")
    if isinstance(below, dict) and isinstance(above, dict):
        replaced = set(SPLITS) if "fractions" in above else {"fractions"} if set(SPLITS) & set(above) else set()
        lower = {**lower, "split": {key: value for key, value in below.items() if key not in replaced}}
    return toml.merge(lower, upper)


def _checked(table: toml.Table, source: str, layers: Sequence[toml.Layer]) -> Market:
    try:
        return Market.model_validate(table)
    except ValidationError as error:
        broken = toml.findings(error, Market, layers, source)
    count = f"{len(broken)} findings" if len(broken) > 1 else "1 finding"
    raise MarketError("\n  ".join([f"{source}: {count}", *broken]))
