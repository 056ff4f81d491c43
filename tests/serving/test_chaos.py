"""A server of two workers under constant load while what it depends on fails: no score is wrong, no acknowledged payment is
lost, no request hangs, no process is left, and each fault is seen in the log and in /metrics.

All cases take some minutes: TSA_LONG=1, or -m slow.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.chaos import Chaos, is_small, small_disk
from support.chaos_cases import CASES, DOCS, split, table
from support.history_case import Case, RedisServer


def run(case: Case, store: str, folder: Path, names: set[str] | None = None) -> None:
    if store != "sqlite" and not RedisServer.installed():
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with small_disk(folder) as disk, Chaos(case, store, folder, disk) as chaos:
        for one in CASES:
            if store not in one.stores or (names is not None and one.name not in names):
                continue
            if one.needs_disk and not is_small(disk):
                continue
            try:
                chaos.run(one)
            except BaseException as error:
                error.add_note(f"in {one.name} on {store}: {chaos.summary()}\n{chaos.server.log()[-4000:]}")
                raise
        print(chaos.summary())  # noqa: T201


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "redis", "cluster"])
def test_all_faults(case: Case, store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not os.environ.get("TSA_LONG") and request.config.getoption("markexpr") != "slow":
        pytest.skip("takes minutes: TSA_LONG=1, or -m slow")
    run(case, store, tmp_path)


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_some_faults(case: Case, store: str, tmp_path: Path) -> None:
    run(case, store, tmp_path, {"file_moved", "redis_flushed"})


def test_the_table_of_the_docs_is_that_of_the_cases() -> None:
    assert split(DOCS.read_text())[1] == table(), "PYTHONPATH=tests python -m support.chaos_cases writes it anew"
