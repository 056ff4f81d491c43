"""The easy store, made once."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from easy import stored

from tsa.data.store import EventStore


@pytest.fixture(scope="session")
def easy_store(easy_log: Path, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(pl.read_parquet(easy_log), tmp_path_factory.mktemp("easy-store"))
