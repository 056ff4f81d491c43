from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.encoding import training_rows
from tsa.data.store import build, indexed_histories
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError, MarketError, StoreError, TSAError

START = 1_525_651_200  # 2018-05-07
DAY = 86_400
SCHEMA = {
    "id": pl.Int64,
    "time": pl.Int64,
    "fraud": pl.Int64,
    "customer": pl.String,
    "terminal": pl.Int64,
    "amount": pl.Float64,
    "category": pl.String,
}


def _market(**changes: Any) -> Market:
    table = {
        "name": "tiny",
        "event": {"id": "id", "time": "time", "time_unit": "s", "amount": "amount"},
        "label": {"column": "fraud", "delay_days": 1},
        "history": [{"name": "customer", "key": "customer"}, {"name": "terminal", "key": "terminal"}],
        "features": {
            "calendar": ["hour_of_day", "day_of_week"],
            "categorical": [{"name": "category", "min_count": 2}],
            "numerical": [{"name": "amount", "transform": "signed_log1p"}],
        },
        "split": {
            "train": ["2018-05-07", "2018-05-09"],
            "validation": ["2018-05-09", "2018-05-10"],
            "calibration": ["2018-05-10", "2018-05-11"],
            "test": ["2018-05-12", "2018-05-13"],
        },
    }
    return Market.from_dict({**table, **changes})


event = st.tuples(
    st.integers(0, 6 * DAY - 1),
    st.sampled_from([None, -1, 0, 1]),
    st.sampled_from([None, "ann", "bob", "a customer with a long name"]),
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
    st.sampled_from([None, "x", "y", "z"]),
)
FIXED = [(at, 0, "ann", 1, 10.0, "x") for at in (0, 0, 2 * DAY, 3 * DAY, 5 * DAY, 5 * DAY)]
"""Every split has a row, and there are ties."""


def _frame(events: list[Any]) -> pl.DataFrame:
    rows = [(index, START + at, *rest) for index, (at, *rest) in enumerate([*FIXED, *events])]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _example(n: int = 60, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    at, fraud, terminal = (rng.integers(low, high, n).tolist() for low, high in ((0, 6 * DAY), (-1, 2), (0, 3)))
    customer, category = (rng.choice(np.array([None, "x", "y", "z"], object), n).tolist() for _ in range(2))
    return _frame(list(zip(at, fraud, customer, terminal, rng.normal(size=n).tolist(), category, strict=True)))


def _prepare(frame: pl.DataFrame, out: Path, market: Market | None = None, **settings: Any) -> EventStore:
    log = out.parent / "log.parquet"
    frame.write_parquet(log)
    return prepare(market or _market(), [str(log)], out, **settings)


def _left_beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path.name != "log.parquet")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _history(frame: pl.DataFrame, key: str, index: int) -> list[int]:
    """The slow way: rows up to `index` that share its key."""
    keys = frame[key].to_list()
    return [index] if keys[index] is None else [row for row in range(index + 1) if keys[row] == keys[index]]


@settings(max_examples=25, deadline=None)
@given(events=st.lists(event, max_size=25), seed=st.integers(0, 999))
def test_store_of_a_random_log(events: list[Any], seed: int) -> None:
    """Order, ties, null keys, labels, and that the order of the log's rows changes no byte."""
    frame = _frame(events)
    shuffled = frame[np.random.default_rng(seed).permutation(len(frame))]
    with tempfile.TemporaryDirectory() as name:
        store = _prepare(frame, Path(name) / "store")
        again = _prepare(shuffled, Path(name) / "again")
        assert again.manifest == store.manifest
        ordered = frame.sort("time", "id")
        assert store.ids().to_list() == ordered["id"].to_list()
        assert store.time_seconds.tolist() == ordered["time"].to_list()
        assert store.label.tolist() == ordered["fraud"].fill_null(-1).to_list()
        for key in ("customer", "terminal"):
            index = store.histories[key]
            for row in range(len(store)):
                history = index.order[index.start[row] : index.position[row] + 1]
                assert history.tolist() == _history(ordered, key, row)
        assert store.categorical.tobytes() == store.encoder.categorical(_clean(ordered)).tobytes()
        assert store.numerical.tobytes() == store.encoder.numerical(_clean(ordered)).tobytes()


def _clean(ordered: pl.DataFrame) -> pl.DataFrame:
    return ordered.with_columns(pl.col("time").cast(pl.Float64).alias("__time_seconds"))


@settings(max_examples=15, deadline=None)
@given(events=st.lists(event, max_size=20), other=st.lists(event, max_size=20))
def test_only_training_rows_are_learned_from(events: list[Any], other: list[Any]) -> None:
    train = [e for e in events if e[0] < 2 * DAY]
    later = [e for e in other if e[0] >= 2 * DAY]
    with tempfile.TemporaryDirectory() as name:
        without = _prepare(_frame(train), Path(name) / "store").encoder
        assert _prepare(_frame([*train, *later]), Path(name) / "store").encoder == without


def test_splits_labels_and_columns(folder: Path) -> None:
    store = _prepare(_example(), folder / "store")
    days = (np.asarray(store.time_seconds) - START) // DAY
    for name, wanted in {"train": (0, 1), "validation": (2,), "calibration": (3,), "test": (5,)}.items():
        assert np.arange(len(store))[store.split(name)].tolist() == np.flatnonzero(np.isin(days, wanted)).tolist()
        labelled = store.labelled(name)
        assert labelled.tolist() == np.flatnonzero(np.isin(days, wanted) & (store.label != -1)).tolist()
    assert store.data_report["rows_kept"] == len(store)
    assert store.columns(["amount", "customer"]).columns == ["amount", "customer"]
    with pytest.raises(StoreError, match=r"\(got nothing\); the names here are id, "):
        store.columns(["nothing"])
    with pytest.raises(StoreError, match="no split 'trian'; the store has"):
        store.split("trian")


def test_chunks_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _prepare(_example(), folder / "store").manifest
    monkeypatch.setattr(training_rows, "CHUNK_ROWS", 7)
    assert _prepare(_example(), folder / "store").manifest == whole


def test_progress_is_told(folder: Path) -> None:
    told: dict[str, int] = {}

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        told[what] = -total
        yield lambda done: told.update({what: told[what] + done})

    _prepare(_example(), folder / "store", progress=progress)
    assert told
    assert set(told.values()) == {0}


@pytest.mark.parametrize(
    ("module", "where"),
    [(build, "read_log"), (build, "encode_rows"), (indexed_histories, "index_histories"), (build, "manifest_of")],
)
def test_a_killed_prepare_leaves_no_store(
    module: ModuleType, where: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, where, killed)
    with pytest.raises(KeyboardInterrupt):
        _prepare(_example(), folder / "store")
    assert _left_beside(folder / "store") == []


def test_a_killed_prepare_leaves_the_old_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _prepare(_example(seed=1), folder / "store").manifest
    with monkeypatch.context() as patch:
        patch.setattr(build, "manifest_of", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _prepare(_example(seed=2), folder / "store")
    assert EventStore.open(folder / "store", verify=True).manifest == old
    assert _prepare(_example(seed=2), folder / "store").manifest != old
    assert _left_beside(folder / "store") == ["store"]


def test_another_folder_is_not_replaced(folder: Path) -> None:
    (folder / "store").mkdir()
    (folder / "store" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"must be empty or contain a manifest\.json"):
        _prepare(_example(), folder / "store")
    assert (folder / "store" / "thesis.txt").read_text() == "mine"
    (folder / "store" / "thesis.txt").unlink()
    assert len(_prepare(_example(), folder / "store"))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _files(store: EventStore) -> list[str]:
    return sorted(path.name for path in store.path.iterdir() if path.name != "manifest.json")


@pytest.mark.parametrize(("damage", "verify"), [(_cut, False), (Path.unlink, False), (_flip, True)])
def test_a_torn_or_changed_file_is_refused_by_name(damage: Callable[[Path], None], verify: bool, folder: Path) -> None:
    store = _prepare(_example(), folder / "store")
    assert len(_files(store)) == 8 + 2 * 3 + 4
    for name in _files(store):
        torn = folder / "torn"
        shutil.copytree(store.path, torn)
        damage(torn / name)
        with pytest.raises(StoreError, match=name):
            EventStore.open(torn, verify=verify)
        shutil.rmtree(torn)


def test_a_manifest_that_does_not_fit_is_refused(folder: Path) -> None:
    store = _prepare(_example(), folder / "store")
    path = store.path / "manifest.json"
    good = json.loads(path.read_text())
    changes: dict[str, Any] = {
        "version": {**good, "version": 1},
        "fingerprint": {**good, "market": {"name": "tiny", "fingerprint": "0"}},
        "must list label.npy": {**good, "files": {k: v for k, v in good["files"].items() if k != "label.npy"}},
        "must have shape": {**good, "n_events": good["n_events"] + 1},
        "must encode": {**good, "columns": {}},
        "label.npy cannot be read": {
            **good,
            "files": {**good["files"], "label.npy": {**good["files"]["label.npy"], "shape": 1}},
        },
        "must be as this program writes it": {**good, "files": {"label.npy": 3}},
        "must have the keys": {"kind": good["kind"], "version": good["version"]},
    }
    for message, manifest in changes.items():
        path.write_text(json.dumps(manifest))
        with pytest.raises(StoreError, match=message):
            EventStore.open(store.path)
    path.write_text("[]")
    with pytest.raises(StoreError, match="must hold a JSON object"):
        EventStore.open(store.path)
    with pytest.raises(StoreError, match="is not a store"):
        EventStore.open(folder / "nowhere")


def test_another_market_is_refused_with_the_difference(folder: Path) -> None:
    store = _prepare(_example(), folder / "store")
    assert len(EventStore.open(store.path, _market())) == len(store)
    other = _market(label={"column": "fraud", "delay_days": 0.5})
    with pytest.raises(StoreError, match=r"label.delay_days \(1\.0, 0\.5\)"):
        EventStore.open(store.path, other)


def test_a_split_without_rows_is_refused(folder: Path) -> None:
    frame = _example().filter(pl.col("time") < START + 5 * DAY)
    with pytest.raises(DataError, match=r"split.test must hold payments [(]got none from 2018-05-12T00:00:00\+00:00"):
        _prepare(frame, folder / "store")
    assert _left_beside(folder / "store") == []


def test_an_empty_log_is_refused(folder: Path) -> None:
    with pytest.raises(TSAError):
        _prepare(_example().clear(), folder / "store")


def test_a_given_encoder_needs_neither_labels_nor_splits(folder: Path) -> None:
    trained = _prepare(_example(), folder / "store")
    later = _example(seed=9).with_columns(pl.col("time") + 30 * DAY).drop("fraud")
    store = _prepare(later, folder / "scoring", encoder=trained.encoder)
    assert store.encoder == trained.encoder
    assert set(store.label.tolist()) == {-1}
    assert np.isinf(store.known_at_seconds).all()
    with pytest.raises(StoreError, match="was made with a given encoder and has no splits"):
        store.split("train")
    other = _market(features={"calendar": ["month"]})
    with pytest.raises(MarketError, match=r"features\.categorical must be as the encoder was fitted"):
        _prepare(later, folder / "scoring", market=other, encoder=trained.encoder)


def test_a_market_without_features_makes_a_store(folder: Path) -> None:
    store = _prepare(_example(), folder / "store", market=_market(features={}))
    assert store.categorical.shape == store.numerical.shape == (len(store), 0)
