"""The easy store, made once. All is trained with one thread: two that wait for each other on a busy machine take minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from easy import stored

from tsa.data.store import EventStore


@pytest.fixture(scope="session")
def easy_store(easy_log: Path, tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(pl.read_parquet(easy_log), tmp_path_factory.mktemp("easy-store"))


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
