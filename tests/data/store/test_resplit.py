"""A store with other ranges is the one that `prepare` would make of the log with these ranges, to the bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.easy_log import MARKET
from tsa.config.market import Market
from tsa.data.store.manifest import ENCODER, MANIFEST, REPORT
from tsa.data.store.prepare import prepare
from tsa.data.store.resplit import resplit, with_ranges
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError, MarketError

DAY = 86_400.0
FIRST = 1_525_651_200.0
RANGES = {
    "train": (FIRST, FIRST + 6 * DAY),
    "validation": (FIRST + 6 * DAY, FIRST + 8.5 * DAY),
    "calibration": (FIRST + 8.5 * DAY, FIRST + 9.25 * DAY),
    "test": (FIRST + 10.25 * DAY, FIRST + 12 * DAY),
}


def files_of(store: EventStore) -> dict[str, Any]:
    return json.loads((store.path / MANIFEST).read_text())["files"]


def test_it_is_what_prepare_makes(easy_store: EventStore, easy_log: Path, tmp_path: Path) -> None:
    market = with_ranges(Market.from_dict(MARKET), RANGES)
    prepared = prepare(market, [str(easy_log)], tmp_path / "prepared")
    made = resplit(easy_store, RANGES, tmp_path / "made")
    assert made.market == market
    assert made.manifest["splits"] == prepared.manifest["splits"]
    ours, theirs = files_of(made), files_of(prepared)
    assert {name for name in ours if ours[name] != theirs[name]} <= {REPORT}
    for name in ("unknown_rates", "known_too_late"):
        assert made.data_report[name] == prepared.data_report[name]
    EventStore.open(made.path, market, verify=True)
    assert os.stat(made.path / "time_seconds.npy").st_nlink >= 2, "shared with the first store"
    assert os.stat(made.path / "numerical.npy").st_nlink == 1


def test_the_encoder_may_know_several_ranges(easy_store: EventStore, easy_log: Path, tmp_path: Path) -> None:
    made = resplit(easy_store, RANGES, tmp_path / "made", learned=("train", "validation", "calibration"))
    wider = {**RANGES, "train": (FIRST, FIRST + 9.25 * DAY)}
    wider |= {
        "validation": (FIRST + 9.25 * DAY, FIRST + 9.5 * DAY),
        "calibration": (FIRST + 9.5 * DAY, FIRST + 9.75 * DAY),
        "test": (FIRST + 11 * DAY, FIRST + 12 * DAY),
    }
    market = with_ranges(Market.from_dict(MARKET), wider)
    prepared = prepare(market, [str(easy_log)], tmp_path / "prepared")
    ours, theirs = (json.loads((store.path / ENCODER).read_text()) for store in (made, prepared))
    changing = ("market", "sha256", "market_sha256")
    assert {key: value for key, value in ours.items() if key not in changing} == {
        key: value for key, value in theirs.items() if key not in changing
    }
    assert np.array_equal(made.numerical, prepared.numerical)


def test_ranges_without_payments(easy_store: EventStore, tmp_path: Path) -> None:
    late = {**RANGES, "test": (FIRST + 30 * DAY, FIRST + 31 * DAY)}
    with pytest.raises(DataError, match="the test range must hold payments"):
        resplit(easy_store, late, tmp_path / "made")
    made = resplit(easy_store, late, tmp_path / "made", may_be_empty=("test",))
    assert len(made.split_rows("test")) == 0
    assert len(made.labelled("train")) == 600


def test_what_is_refused(easy_store: EventStore, tmp_path: Path) -> None:
    early = {**RANGES, "test": (FIRST + 9.5 * DAY, FIRST + 12 * DAY)}
    with pytest.raises(MarketError, match="must start 1 days"):
        resplit(easy_store, early, tmp_path / "made")
    with pytest.raises(ConfigError):
        resplit(easy_store, RANGES, easy_store.path)
    assert EventStore.open(easy_store.path, verify=True).manifest == easy_store.manifest
