"""The event store: a payment log as flat, time-ordered arrays on disk, opened as memory maps.

`prepare` makes one, whole or not at all; `EventStore.open` refuses one that is torn. `tsa.data.store.manifest` tells what
stands where in the folder. This file does not know how rows are read or encoded, nor what a model makes of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import SPLITS, Market
from tsa.config.toml import suggest
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import EventArrays, HistoryIndex, known_too_late
from tsa.data.log.quarantine import SetAside
from tsa.data.store.arrays import FolderArrays, MemoryArrays
from tsa.data.store.build import build_in_memory, build_store, encode_rows
from tsa.data.store.manifest import (
    ARRAYS,
    ENCODER,
    INDEX_ARRAYS,
    MANIFEST,
    MARKET,
    OF_PAYMENTS,
    REPORT,
    ROWS,
    array_file,
    check_complete,
    index_file,
    n_stored,
    open_array,
    read_manifest,
)
from tsa.errors import DataError, MarketError, StoreError
from tsa.files.writing import atomic_folder, read_json
from tsa.progress import Progress, silent
from tsa.text import brief
from tsa.trees import differences

Array = NDArray[Any]
TEST = "test"
Logs = str | Path | Sequence[str | Path]
MAX_TABLE_BYTES = 256 * 2**20
"""A table that takes more is encoded by way of files, so that memory stays bounded."""


def prepare(
    market: Market,
    logs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    quarantine: SetAside = None,
    encoder: Encoder | None = None,
    progress: Progress = silent,
) -> EventStore:
    """Turn a payment log into the store `out`, which appears only when it is whole; an older one there is replaced.

    logs: a file, a glob or a URL, or several. quarantine: a file for rows that break a rule; without it they are an
    error. encoder: encode with this one, as for scoring; nothing is fitted then, the label column may be absent, and
    the store has no splits.
    Raises DataError for rows that cannot be used or a split without rows, MarketError when the encoder is for other
    features, ConfigError when `out` is a folder with other things in it.
    """
    names = _names(logs)
    if encoder is not None:
        encoder.check_market(market)
    with atomic_folder(Path(out), MANIFEST, private=True) as folder:
        build_store(market, names, folder, quarantine=quarantine, encoder=encoder, progress=progress)
    return EventStore.open(out, market)


def _names(logs: Logs) -> list[str]:
    return [str(logs)] if isinstance(logs, str | Path) else [str(log) for log in logs]


@contextmanager
def encoded_log(
    market: Market,
    payments: pl.DataFrame | Logs,
    encoder: Encoder,
    *,
    quarantine: SetAside = None,
    progress: Progress = silent,
) -> Iterator[EventStore]:
    """Yield the payments of a log as a store made with `encoder`: nothing is fitted, and the store is gone afterwards.

    A small table of a market of logs stays in memory; all else goes by way of files in a folder of its own. The store is the
    same to the bit. The arrays of one in memory have no files, so its `path` is a name alone.

    Args:
        market: What the columns mean.
        payments: A table, or files as `prepare` reads them.
        encoder: What encodes them.
        quarantine: A file for rows that break a rule; without it they are an error.
        progress: Told of what takes long.

    Raises:
        DataError: For rows that cannot be used.
        MarketError: For an encoder of other features.
    """
    encoder.check_market(market)
    if (
        isinstance(payments, pl.DataFrame)
        and market.inline_history is None
        and payments.estimated_size() <= MAX_TABLE_BYTES
    ):
        made = build_in_memory(market, payments, quarantine=quarantine, encoder=encoder, progress=progress)
        yield EventStore._in_memory(market, encoder, *made)
        return
    with tempfile.TemporaryDirectory(prefix="tsa-log-") as name:
        folder = Path(name)
        if isinstance(payments, pl.DataFrame):
            payments.write_parquet(folder / "payments.parquet")
            payments = folder / "payments.parquet"
        yield prepare(market, payments, folder / "store", quarantine=quarantine, encoder=encoder, progress=progress)


@dataclass(frozen=True, kw_only=True, eq=False)
class EventStore(EventArrays):
    """n payments in (time, id) order. Arrays are read-only views of memory maps.

    A history is gathered from `events`: the payments, and behind them the earlier ones that wire rows carry along. Of a log
    these are the same arrays.
    """

    path: Path
    clean: pl.LazyFrame
    """The clean raw columns in store order."""
    market: Market
    encoder: Encoder
    manifest: Mapping[str, Any]
    categorical: Array
    """(n, C) int32: rows of the one embedding table, named by `encoder.categorical_names`."""
    numerical: Array
    """(n, F) float32, scaled, named by `encoder.numerical_names`."""
    engineered: Array
    """(n, G) float32, scaled, named by `encoder.engineered_names`."""
    time_seconds: Array
    """(n,) float64 seconds since 1970."""
    label: Array
    """(n,) int8: 1 fraud, 0 genuine, -1 not known."""
    known_at_seconds: Array
    """(n,) float64: when the label becomes known; +inf for never."""
    events: EventArrays
    """What the histories' `order` points into."""
    histories: Mapping[str, HistoryIndex]
    report: Mapping[str, Any] | None = None
    """What `data_report` gives, where it stands in no file."""
    is_encoded_again: bool = False
    """Whether its encoded features are others than those in its folder."""

    @classmethod
    def open(cls, path: str | Path, market: Market | None = None, *, verify: bool = False) -> Self:
        """Open a store. Sizes are always checked, content with `verify`.

        Raises StoreError naming the file that is missing, torn or changed, or, when `market` is given and the store was
        made for another, how the two differ.
        """
        folder = Path(path)
        manifest = read_manifest(folder, verify=verify)
        own = _read_market(folder)
        if own.fingerprint != manifest["market"]["fingerprint"]:
            raise StoreError(
                f"{folder / MARKET} is not the market of the manifest: its fingerprint is {own.fingerprint}"
            )
        if market is not None and market.fingerprint != own.fingerprint:
            lines = "\n  ".join(differences(own.to_dict(), market.to_dict()))
            raise StoreError(f"{folder} was made for another market (store, then market given):\n  {lines}")
        check_complete(folder, manifest, own)
        stored: dict[str, Any] = dict(_open_arrays(folder, manifest))
        arrays: dict[str, Any] = {name: array[: manifest["n_events"]] for name, array in stored.items()}
        if own.inline_history is not None:
            stored["age_cap_seconds"] = arrays["age_cap_seconds"] = own.inline_history.age_cap_seconds
        events = EventArrays(**{name: value for name, value in stored.items() if name not in OF_PAYMENTS})
        histories = {history.name: _open_index(folder, history.name, manifest) for history in own.history}
        encoder = Encoder.load(folder / ENCODER)
        if encoder.columns != manifest["columns"]:
            raise StoreError(f"{folder / ENCODER} must encode {manifest['columns']} (got {encoder.columns})")
        arrays |= {"market": own, "encoder": encoder, "manifest": manifest, "events": events, "histories": histories}
        return cls(path=folder, clean=pl.scan_parquet(folder / ROWS), **arrays)

    @classmethod
    def _in_memory(
        cls, market: Market, encoder: Encoder, clean: pl.DataFrame, made: MemoryArrays, report: Mapping[str, Any]
    ) -> Self:
        arrays: dict[str, Any] = {name: made.array(array_file(name)) for name in ARRAYS}
        of_events = {name: array for name, array in arrays.items() if name not in OF_PAYMENTS}
        return cls(
            path=Path("a table in memory"),
            clean=clean.lazy(),
            market=market,
            encoder=encoder,
            manifest={"n_events": len(clean), "splits": {}},
            events=EventArrays(**of_events),
            histories={
                history.name: HistoryIndex(*(made.array(index_file(history.name, name)) for name in INDEX_ARRAYS))
                for history in market.history
            },
            report=report,
            **arrays,
        )

    @property
    def is_in_memory(self) -> bool:
        """Whether it has no files."""
        return self.report is not None

    def reopened(self) -> EventStore:
        """The store, without what its maps hold in memory. One that `encoded_by` made, or in memory, is itself."""
        return self if self.is_in_memory or self.is_encoded_again else EventStore.open(self.path)

    def encoded_by(self, market: Market, encoder: Encoder, folder: Path, progress: Progress = silent) -> EventStore:
        """The same payments of a log, encoded by another encoder of a market that reads them alike and has the same
        histories.

        folder: an empty one for the arrays of a store that has files.
        """
        arrays = MemoryArrays() if self.is_in_memory else FolderArrays(folder)
        encode_rows(encoder, self.clean, len(self), arrays, progress)
        made: dict[str, Any] = {name: arrays.array(array_file(name)) for name in encoder.columns}
        events = replace(self.events, categorical=made["categorical"], numerical=made["numerical"])
        return replace(self, market=market, encoder=encoder, events=events, is_encoded_again=True, **made)

    def __len__(self) -> int:
        return int(self.manifest["n_events"])

    def split(self, name: str) -> slice:
        """Rows of "train", "validation", "calibration" or "test". Raises StoreError for another name."""
        splits = self.manifest["splits"]
        if name not in splits:
            has = f"has {list(splits)}" if splits else "was made with a given encoder and has no splits"
            raise StoreError(f"{self.path}: no split {name!r}; the store {has}")
        first, last = splits[name]["rows"]
        return slice(first, last)

    def labels(self, name: str) -> NDArray[np.int8]:
        """(m,) labels of the split, as the model that is tested could know them: 1 fraud, 0 genuine, -1 not known.

        Outside the test range an outcome that becomes known only after that range has begun is not known.
        """
        label = np.asarray(self.label[self.split(name)])
        return np.where(self._is_late(name), np.int8(-1), label)

    def labelled(self, name: str) -> NDArray[np.int64]:
        """(m,) rows of the split whose label is known, as `labels` has it."""
        found: NDArray[np.int64] = np.flatnonzero(self.labels(name) >= 0) + self.split(name).start
        return found

    def known_too_late(self, name: str) -> int:
        """How many outcomes of the split become known only after the test range has begun, which nothing learns from."""
        return int(np.count_nonzero(self._is_late(name)))

    def _is_late(self, name: str) -> NDArray[np.bool_]:
        rows = self.split(name)
        if name == TEST:
            return np.zeros(rows.stop - rows.start, bool)
        begins = self.manifest["splits"][TEST]["start_seconds"]
        return known_too_late(np.asarray(self.label[rows]), np.asarray(self.known_at_seconds[rows]), begins)

    def columns(self, names: Sequence[str]) -> pl.DataFrame:
        """Clean raw columns in store order: id, keys, amount, features, segments. Raises StoreError for others."""
        rows = self.clean
        unknown = [name for name in names if name not in (has := rows.collect_schema().names())]
        if unknown:
            shown = [name for name in has if not name.startswith("__")]
            rule = f"columns must be those of the market that the store was made with (got {brief(', '.join(unknown))})"
            raise StoreError(f"{rule}{suggest(unknown[0], shown)}")
        return rows.select(names).collect()

    @cached_property
    def data_report(self) -> dict[str, Any]:
        """What became of each row of the log that was read."""
        return read_json(self.path / REPORT, StoreError) if self.report is None else dict(self.report)

    def ids(self, rows: slice = slice(None)) -> pl.Series:
        """(n,) ids of the events, or of those in `rows` (without a step), in store order."""
        first, last, _ = rows.indices(len(self))
        return self.clean.select(self.market.event.id).slice(first, max(0, last - first)).collect().to_series()


def _read_market(folder: Path) -> Market:
    try:
        return Market.from_dict(read_json(folder / MARKET, StoreError))
    except MarketError as error:
        raise StoreError(f"{folder / MARKET} cannot be read as a market: {error}") from error


def _open_arrays(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Array]:
    rows = {name: manifest["n_events"] if name in OF_PAYMENTS else n_stored(manifest) for name in ARRAYS}
    return {name: open_array(folder, array_file(name), manifest, dtype, rows[name]) for name, dtype in ARRAYS.items()}


def _open_index(folder: Path, history: str, manifest: Mapping[str, Any]) -> HistoryIndex:
    n = None if "n_stored" in manifest else int(manifest["n_events"])
    sizes = {name: n if name == "order" else int(manifest["n_events"]) for name in INDEX_ARRAYS}
    files = ((index_file(history, name), sizes[name]) for name in INDEX_ARRAYS)
    return HistoryIndex(*(open_array(folder, file, manifest, np.int64, size) for file, size in files))


def split_summary(store: EventStore) -> dict[str, dict[str, Any]]:
    """By range: `n` and `frauds` of the labelled payments; `start` and `end`, the times of the first and last payment.

    `known_too_late`: outcomes that nothing learns from, since they become known only after the test range has begun.
    """
    return {
        name: {
            "n": len(store.labelled(name)),
            "frauds": int((store.label[store.labelled(name)] == 1).sum()),
            "known_too_late": store.known_too_late(name),
            "start": _when(store.time_seconds[store.split(name)], 0),
            "end": _when(store.time_seconds[store.split(name)], -1),
        }
        for name in SPLITS
    }


def refuse_unmeasured(store: EventStore) -> None:
    """DataError where no outcome of the test range is known: what is trained could not be measured."""
    if not len(store.labelled("test")):
        n = len(store.label[store.split("test")])
        raise DataError(
            f"split.test must hold payments whose outcome is known, but none of {n} is; "
            "wait for outcomes, or move the ranges of [split] back"
        )


def _when(times: NDArray[Any], at: int) -> str | None:
    return datetime.fromtimestamp(float(times[at]), UTC).isoformat() if len(times) else None
