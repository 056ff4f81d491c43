"""The legacy system's rows give the legacy system's tensors, exactly: as one request, as several, and through a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.wire_rows import write
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import HistoryArrays, gather
from tsa.data.store.prepare import prepare
from tsa.data.wire import WireReader
from tsa.legacy.encoder import legacy_encoder

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "wire_single.json").read_text(encoding="utf-8"))
LAYOUT, RECORDS, EXPECTED = GOLDEN["layout"], GOLDEN["records"], GOLDEN["expected"]


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.from_dict(
        {
            "name": "golden",
            "event": {"id": LAYOUT["id"], "time": LAYOUT["time"], "time_unit": "s"},
            "label": {"column": LAYOUT["label"], "delay_days": 0},
            "history": [{"name": "cid", "length": LAYOUT["sequence_length"]}],
            "features": {kind: LAYOUT[kind] for kind in ("categorical", "numerical", "engineered")},
            "wire": {
                "separator": LAYOUT["separator"],
                "missing": LAYOUT["missing_markers"],
                "numeric_categorical": LAYOUT["numeric_categorical"],
            },
        }
    )


@pytest.fixture(scope="module")
def encoder(market: Market) -> Encoder:
    names = {"cat_to_index": "cat_to_index", "defaults": "default_values", "preprocessor": "preprocessor"}
    return legacy_encoder(market, **{name: GOLDEN[key] for name, key in names.items()})


def rows_of(history: HistoryArrays, engineered: np.ndarray) -> Iterator[dict[str, Any]]:
    for at in range(len(engineered)):
        yield {
            "categorical": history.categorical[at],
            "numerical": history.numerical[at],
            "age_seconds": history.age_seconds[at],
            "keep": (~history.padding[at]).astype(float),
            "engineered": engineered[at],
        }


def assert_golden(found: Iterator[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for at, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        for name, values in row.items():
            exact = np.asarray(wanted[name], values.dtype)
            np.testing.assert_array_equal(values, exact, err_msg=f"{name} of row {at}")


def test_single_requests(market: Market, encoder: Encoder) -> None:
    reader = WireReader(market, encoder)
    for record, expected in zip(RECORDS, EXPECTED, strict=True):
        for payload in (record, json.dumps(record), json.dumps([record], indent=1).encode()):
            found = reader.read(payload)
            assert_golden(rows_of(found.histories["cid"], found.engineered), [expected])
            assert (found.ids, found.time_seconds.tolist()) == (("now",), [1_700_000_000])


def test_several_at_once(market: Market, encoder: Encoder) -> None:
    found = WireReader(market, encoder).read(RECORDS)
    assert_golden(rows_of(found.histories["cid"], found.engineered), EXPECTED)


def test_through_a_store(market: Market, encoder: Encoder, tmp_path: Path) -> None:
    """All golden rows have one id; a store wants one each."""
    rows = [{**record, LAYOUT["id"]: f"now{at}"} for at, record in enumerate(RECORDS)]
    store = prepare(market, write(rows, tmp_path / "rows.jsonl"), tmp_path / "store", encoder=encoder)
    history = gather(store.events, store.histories["cid"], np.arange(len(store)), LAYOUT["sequence_length"])
    assert_golden(rows_of(history, store.engineered), EXPECTED)
    assert store.label.tolist() == [row["label"] for row in EXPECTED]
