"""A network that starts from an earlier one: rows of the table are matched by value, and what does not fit is not taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from support.easy_log import MARKET, TINY, settings
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.model import TSANetwork
from tsa.training.model_config import network_settings
from tsa.training.parts.warm_start import TABLE, WarmStart
from tsa.training.train_model import train_network

N = 400
FEATURES = {
    "categorical": [{"name": "category", "min_count": 1}, {"name": "town", "min_count": 1}],
    "numerical": [{"name": "amount", "transform": "log1p"}],
    "calendar": ["day_of_week"],
}


def store_of(folder: Path, towns: str, **features: Any) -> EventStore:
    """A log whose frauds are in the town `b`; `towns` are those that occur."""
    folder.mkdir()
    at = list(range(N))
    log = pl.DataFrame(
        {
            "id": at,
            "time": [1_525_651_200 + each * 3500 for each in at],
            "customer": [each * 7 % 31 for each in at],
            "category": [f"c{each % 3}" for each in at],
            "town": [towns[each % len(towns)] for each in at],
            "amount": [float(each % 17) for each in at],
            "fraud": [int(towns[each % len(towns)] == "b") for each in at],
        }
    )
    log.write_parquet(folder / "log.parquet")
    market = Market.from_dict({**MARKET, "features": {**FEATURES, **features}})
    return prepare(market, [str(folder / "log.parquet")], folder / "store")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("earlier")
    store = store_of(folder / "log", "abcdb")
    run = train_network(store, folder / "run", model={**TINY, "parts": "network"}, training=settings(epochs=1))
    return run.bundle


def network_of(store: EventStore, **model: Any) -> TSANetwork:
    return TSANetwork(network_settings(store, "default", {**TINY, **model}))


def test_rows_are_matched_by_value(earlier: Bundle, tmp_path: Path) -> None:
    """In another order, without the towns a and c, and with a new one, which starts as an unknown town."""
    store = store_of(tmp_path / "log", "dxb")
    network = network_of(store)
    said = WarmStart(bundle=earlier, name="may").apply(network, store.encoder)
    assert said == {"from": "may", "weights": earlier.model_sha256, "values": 3 + 2 + 7, "new": 1}
    ours, theirs = network.state_dict(), earlier.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name != TABLE)
    for new, old in zip(store.encoder.vocabularies, earlier.encoder.vocabularies, strict=True):
        for value in new.values:
            at = old.values.index(value) + old.known_row if value in old.values else old.unknown_row  # type: ignore[union-attr]
            assert torch.equal(ours[TABLE][new.values.index(value) + new.known_row], theirs[TABLE][at]), value  # type: ignore[union-attr]
        assert torch.equal(ours[TABLE][new.missing_row], theirs[TABLE][old.missing_row])
        assert torch.equal(ours[TABLE][new.unknown_row], theirs[TABLE][old.unknown_row])
    assert torch.equal(ours[TABLE][-2:], theirs[TABLE][-2:]), "the number and the last row"
    assert torch.equal(ours[TABLE][0], torch.zeros(TINY["width"])), "padding"


def test_what_does_not_fit_is_not_taken(earlier: Bundle, tmp_path: Path) -> None:
    store = store_of(tmp_path / "log", "abcdb")
    network = network_of(store, width=16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    said = WarmStart(bundle=earlier, name="may").apply(network, store.encoder)
    assert said["fresh"].startswith("the networks differ in width: 8, 16")
    other = store_of(tmp_path / "other", "abcdb", calendar=["month"])
    assert "the features differ in" in str(WarmStart(bundle=earlier).apply(network_of(other), other.encoder)["fresh"])
    assert WarmStart(bundle=None, reason="none was trained").apply(network, store.encoder) == {
        "fresh": "none was trained"
    }
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_run_says_where_it_started(earlier: Bundle, tmp_path: Path) -> None:
    """With a learning rate of nearly nothing it scores as the earlier one."""
    store = store_of(tmp_path / "log", "abcdb")
    training = settings(epochs=1, learning_rate=1e-12, ema_decay=0.0)
    start = WarmStart(bundle=earlier, name="may")
    made = train_network(store, tmp_path / "run", model={**TINY, "parts": "network"}, training=training, start=start)
    assert made.metadata["warm_start"]["from"] == made.bundle.training["warm_start"]["from"] == "may"
    ours, theirs = made.bundle.network.state_dict(), earlier.network.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
