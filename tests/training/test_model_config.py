"""The network's settings for a store: sizes come from it, and every kind of log gets both parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.wire_rows import market, row, stored
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.training.model_config import network_settings


@pytest.fixture
def wire_store(tmp_path: Path) -> EventStore:
    rows = [row(id=f"p{at}", fraud=str(at % 2)) for at in range(4)]
    return stored(market(), rows, tmp_path)


def test_rows_that_carry_their_own_history_get_both_parts(wire_store: EventStore) -> None:
    assert network_settings(wire_store, "default", {}).parts == "auto"
    assert network_settings(wire_store, "default", {"parts": "trees"}).parts == "trees"
    assert network_settings(wire_store, "reference", {}).parts == "network"


def test_other_stores_get_both_parts(easy_store: EventStore) -> None:
    assert network_settings(easy_store, "default", {}).parts == "auto"
    assert network_settings(easy_store, "reference", {}).parts == "network"


def test_sizes_come_with_the_store(easy_store: EventStore) -> None:
    with pytest.raises(ConfigError, match="n_categorical must not be set"):
        network_settings(easy_store, "default", {"n_categorical": 3})
