"""The event store: a payment log as flat, time-ordered arrays on disk, opened as memory maps.

`tsa.data.store.prepare` makes one; `EventStore.open` refuses an incomplete one. `tsa.data.store.manifest` describes its files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import HistoryView, Market
from tsa.config.toml import suggest
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import EventArrays, HistoryIndex, known_too_late
from tsa.data.key_roles import with_columns
from tsa.data.store.arrays import FolderArrays, MemoryArrays
from tsa.data.store.encoded_rows import encode_rows
from tsa.data.store.manifest import (
    ARRAYS,
    ENCODER,
    MARKET,
    OF_PAYMENTS,
    REPORT,
    ROWS,
    array_file,
    check_complete,
    index_arrays,
    index_file,
    n_stored,
    open_array,
    read_manifest,
)
from tsa.data.store.object_store import fetch
from tsa.data.store.splits import is_scored
from tsa.errors import MarketError, StoreError
from tsa.files.object_folder import object_url
from tsa.files.writing import read_json
from tsa.progress import Progress, silent
from tsa.text import brief
from tsa.value_differences import differing_keys

Array = NDArray[Any]
TEST = "test"


def open_referred(run: Path, store: str, market: Market | None = None) -> EventStore:
    """Open the store of a run.

    Args:
        run: The folder of the run.
        store: Its URL, or its path relative to the run.
        market: The market that it must be for.
    """
    return EventStore.open(object_url(store) or (run.resolve() / store).resolve(), market)


@dataclass(frozen=True, kw_only=True, eq=False)
class EventStore(EventArrays):
    """n payments in (time, id) order. Arrays are read-only views of memory maps.

    Histories are gathered from `events`: the payments, followed by the earlier payments that wire rows carry. For a
    log these are the same arrays.

    Example:
        >>> store = tsa.EventStore.open("run/store")
        >>> store.numerical.dtype, len(store.numerical) == len(store)
        (dtype('float32'), True)
        >>> [name for name in ("train", "validation", "calibration", "test") if len(store.labelled(name))]
        ['train', 'validation', 'calibration', 'test']
    """

    path: Path
    """Its folder; of a store with a URL, that of the local copy."""
    clean: pl.LazyFrame
    """The clean raw columns in store order."""
    market: Market
    encoder: Encoder
    manifest: Mapping[str, Any]
    categorical: Array
    """(n, C) int32: rows of the shared embedding table; columns as in `encoder.categorical_names`."""
    numerical: Array
    """(n, F) float32, scaled; columns as in `encoder.numerical_names`."""
    engineered: Array
    """(n, G) float32, scaled; columns as in `encoder.engineered_names`."""
    time_seconds: Array
    """(n,) float64 seconds since 1970."""
    label: Array
    """(n,) int8: 1 fraud, 0 genuine, -1 unknown."""
    known_at_seconds: Array
    """(n,) float64: when the label becomes known; +inf for never."""
    events: EventArrays
    """The arrays that the histories' `order` indexes."""
    histories: Mapping[str, HistoryIndex]
    report: Mapping[str, Any] | None = None
    """The data report, if it is not in a file."""
    url: str | None = None
    """Where it is in an object storage."""
    is_encoded_again: bool = False
    """Whether its encoded features differ from those in its folder."""

    @classmethod
    def open(cls, path: str | Path, market: Market | None = None, *, verify: bool = False) -> Self:
        """Open a store. File sizes are always checked, contents only with `verify`.

        Args:
            path: Its folder, or its URL in an object storage (`s3://`, `gs://`): then a copy in the local cache is opened,
                and the files that the cache lacks are fetched and checked.
            market: The market that it must be for.
            verify: Compare each file with the hash in the manifest.

        Raises:
            StoreError: Names the file that is missing, incomplete or changed; or, if `market` is given and the store
                is for another market, the differences.
        """
        url = object_url(path)
        folder = Path(path) if url is None else fetch(url)
        manifest = read_manifest(folder, verify=verify)
        own = _read_market(folder)
        if own.fingerprint != manifest["market"]["fingerprint"]:
            raise StoreError(
                f"{folder / MARKET} is not the market of the manifest: its fingerprint is {own.fingerprint}"
            )
        if market is not None and market.fingerprint != own.fingerprint:
            keys = differing_keys(own.to_dict(), market.to_dict())
            what = f"{folder} was made for another market (store, then market given: {keys})"
            raise StoreError(f"{what}: use the log itself, or a store that was made with this market")
        check_complete(folder, manifest, own)
        stored: dict[str, Any] = dict(_open_arrays(folder, manifest))
        arrays: dict[str, Any] = {name: array[: manifest["n_events"]] for name, array in stored.items()}
        if own.wire is not None:
            stored["age_cap_seconds"] = arrays["age_cap_seconds"] = own.wire.age_cap_seconds
        events = EventArrays(**{name: value for name, value in stored.items() if name not in OF_PAYMENTS})
        encoder = Encoder.load(folder / ENCODER)
        indices = {view.name: _open_index(folder, view, manifest) for view in own.views}
        histories = with_columns(own, encoder, indices)
        if encoder.columns != manifest["columns"]:
            raise StoreError(f"{folder / ENCODER} must encode {manifest['columns']} (got {encoder.columns})")
        arrays |= {"market": own, "encoder": encoder, "manifest": manifest, "events": events, "histories": histories}
        return cls(path=folder, url=url, clean=pl.scan_parquet(folder / ROWS), **arrays)

    @classmethod
    def in_memory(
        cls, market: Market, encoder: Encoder, clean: pl.DataFrame, made: MemoryArrays, report: Mapping[str, Any]
    ) -> Self:
        """The store of arrays that have no files."""
        arrays: dict[str, Any] = {name: made.array(array_file(name)) for name in ARRAYS}
        of_events = {name: array for name, array in arrays.items() if name not in OF_PAYMENTS}
        return cls(
            path=Path("a table in memory"),
            clean=clean.lazy(),
            market=market,
            encoder=encoder,
            manifest={"n_events": len(clean), "splits": {}},
            events=EventArrays(**of_events),
            histories=with_columns(
                market,
                encoder,
                {view.name: _index(view, lambda file, _: made.array(file)) for view in market.views},
            ),
            report=report,
            **arrays,
        )

    @property
    def is_in_memory(self) -> bool:
        """Whether it has no files."""
        return self.report is not None

    def reopened(self) -> EventStore:
        """The store with fresh memory maps, which frees memory. A store in memory, or from `encoded_by`, is returned as
        it is.
        """
        if self.is_in_memory or self.is_encoded_again:
            return self
        return replace(EventStore.open(self.path), url=self.url)

    def encoded_by(self, market: Market, encoder: Encoder, folder: Path, progress: Progress = silent) -> EventStore:
        """The same payments of a log, encoded with another encoder, whose market reads them alike and has the same
        histories.

        Args:
            folder: An empty folder for the arrays, if the store has files.
        """
        arrays = MemoryArrays() if self.is_in_memory else FolderArrays(folder)
        encode_rows(market, encoder, self.clean, len(self), arrays, progress)
        names = (*encoder.columns, "tokens", "raw_numerical")
        made: dict[str, Any] = {name: arrays.array(array_file(name)) for name in names}
        events = replace(self.events, **{name: array for name, array in made.items() if name not in OF_PAYMENTS})
        made["histories"] = with_columns(market, encoder, self.histories)
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

    @cached_property
    def _scored(self) -> NDArray[np.int64] | None:
        """Rows of the events that are scored; None if all are."""
        mask = is_scored(self.market, self.clean)
        return None if mask is None else np.flatnonzero(mask)

    def scored_rows(self, first: int = 0, last: int | None = None) -> NDArray[np.int64]:
        """(m,) rows from `first` to before `last` of the events that are scored: all, unless event.scored says other."""
        last = len(self) if last is None else last
        if self._scored is None:
            return np.arange(first, last, dtype=np.int64)
        begin, end = np.searchsorted(self._scored, [first, last])
        return self._scored[begin:end]

    def scored_before(self, rows: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of the events before each of the rows are scored."""
        return np.asarray(rows if self._scored is None else np.searchsorted(self._scored, rows), dtype=np.int64)

    def scored_part(self, first: int, last: int) -> NDArray[np.int64]:
        """(m,) rows of scored events, from number `first` to before number `last` among all scored events."""
        return np.arange(first, last, dtype=np.int64) if self._scored is None else self._scored[first:last]

    def split_rows(self, name: str) -> NDArray[np.int64]:
        """(m,) rows of the scored events of a range, whether their outcome is known or not."""
        rows = self.split(name)
        return self.scored_rows(rows.start, rows.stop)

    def labels(self, name: str) -> NDArray[np.int8]:
        """(m,) labels of `split_rows`, as known when the tested model is trained: 1 fraud, 0 genuine, -1 unknown.

        Outside the test range, an outcome that becomes known only after the test range has begun counts as unknown.
        """
        label = np.asarray(self.label[self.split_rows(name)])
        return np.where(self._is_late(name), np.int8(-1), label)

    def labelled(self, name: str) -> NDArray[np.int64]:
        """(m,) rows of the split whose label is known according to `labels`."""
        return self.split_rows(name)[self.labels(name) >= 0]

    def known_too_late(self, name: str) -> int:
        """Number of outcomes of the split that become known only after the test range has begun; they are not used."""
        return int(np.count_nonzero(self._is_late(name)))

    def _is_late(self, name: str) -> NDArray[np.bool_]:
        rows = self.split_rows(name)
        if name == TEST:
            return np.zeros(len(rows), bool)
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
        """The report on the rows of the log: read, excluded, quarantined, used."""
        return read_json(self.path / REPORT, StoreError) if self.report is None else dict(self.report)

    def ids_of(self, rows: NDArray[np.int64]) -> pl.Series:
        """(m,) ids of the events `rows`, ascending."""
        if not len(rows):
            return self.ids(slice(0, 0))
        first = int(rows[0])
        return self.ids(slice(first, int(rows[-1]) + 1)).gather(rows - first)

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


def _open_index(folder: Path, view: HistoryView, manifest: Mapping[str, Any]) -> HistoryIndex:
    n = None if "n_stored" in manifest or manifest.get("asks") or view.has_roles else int(manifest["n_events"])
    sizes = {"order": n, "role": n}

    def read(file: str, name: str) -> Array:
        rows = sizes.get(name, int(manifest["n_events"]))
        return open_array(folder, file, manifest, index_arrays(view)[name], rows)

    return _index(view, read)


def _index(view: HistoryView, read: Callable[[str, str], Array]) -> HistoryIndex:
    """The index of a view from its arrays. read: the array of a file, by its name in `index_arrays`."""
    arrays: dict[str, Any] = {name: read(index_file(view.name, name), name) for name in index_arrays(view)}
    return HistoryIndex(**arrays)
