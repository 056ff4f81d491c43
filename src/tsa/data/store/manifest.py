"""The files of a store, and its manifest.

    categorical.npy numerical.npy engineered.npy      encoded features, one row per event
    tokens.npy raw_numerical.npy                      raw values of events that aggregates compare and sum
    time_seconds.npy label.npy known_at_seconds.npy
    NAME.order.npy NAME.position.npy NAME.start.npy   per history, with NAME.role.npy if its key is named by several columns
    rows.parquet       the clean rows, in the same order
    data_report.json   the report on the rows that were read
    market.json encoder.json
    manifest.json      version, number of events, splits, and the size and sha256 of each file

If rows carry their own history, tokens.npy and raw_numerical.npy have no columns, and the earlier payments follow the n
payments in all arrays but `engineered`, in time order.
The manifest has the total (`n_stored`), and NAME.order.npy lists each payment once for each row that shows it.

The manifest is written last. The same rows in files of the same names give the same manifest, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.config.market import HistoryView, Market
from tsa.errors import StoreError
from tsa.files.writing import read_json, sha256_of

VERSION = 3
KIND = "tsa event store"
KEYS = ("n_events", "market", "columns", "histories", "splits", "files")
"""Keys of a manifest in addition to kind and version."""

MANIFEST = "manifest.json"
MARKET = "market.json"
ENCODER = "encoder.json"
REPORT = "data_report.json"
ROWS = "rows.parquet"

ARRAYS: dict[str, type[np.generic]] = {
    "categorical": np.int32,
    "numerical": np.float32,
    "engineered": np.float32,
    "tokens": np.uint32,
    "raw_numerical": np.float32,
    "time_seconds": np.float64,
    "label": np.int8,
    "known_at_seconds": np.float64,
}
"""The arrays of every store and their types."""

OF_PAYMENTS = ("engineered",)
"""Arrays without rows for the earlier payments that rows carry."""

INDEX_ARRAYS: dict[str, type[np.generic]] = {"order": np.int64, "position": np.int64, "start": np.int64}
"""The arrays of each view of a history."""

ROLE_ARRAY: dict[str, type[np.generic]] = {"role": np.int8}
"""Of a history with several columns of keys, also the role of the event at each place of `order`."""


def array_file(name: str) -> str:
    """File of one of `ARRAYS`."""
    return f"{name}.npy"


def index_file(history: str, name: str) -> str:
    """File of one of a history's `INDEX_ARRAYS`."""
    return f"{history}.{name}.npy"


def index_arrays(view: HistoryView) -> dict[str, type[np.generic]]:
    """The arrays of a view of a history and their types."""
    return INDEX_ARRAYS | ROLE_ARRAY if view.has_roles else INDEX_ARRAYS


def files_of(market: Market) -> list[str]:
    """All files of a store of this market, except the manifest."""
    arrays = [array_file(name) for name in ARRAYS]
    indices = [index_file(view.name, name) for view in market.views for name in index_arrays(view)]
    return [*arrays, *indices, ROWS, REPORT, MARKET, ENCODER]


def read_manifest(folder: Path, *, verify: bool) -> dict[str, Any]:
    """The manifest of a store, after checking that its files exist and have the right size (with `verify`: content).

    Raises:
        StoreError: Names the file that does not match.
    """
    if not (folder / MANIFEST).exists():
        raise StoreError(_why_no_store(folder))
    manifest = read_json(folder / MANIFEST, StoreError)
    if manifest.get("kind") != KIND or manifest.get("version") != VERSION:
        version = f"kind={manifest.get('kind')!r}, version={manifest.get('version')!r}"
        raise StoreError(
            f"{folder / MANIFEST}: this program reads a {KIND!r} of version {VERSION} (got {version}); prepare it again"
        )
    if missing := [key for key in KEYS if key not in manifest]:
        raise StoreError(f"{folder / MANIFEST} must have the keys {list(KEYS)}, but {missing} are missing")
    try:
        for name, entry in manifest["files"].items():
            _check_file(folder / name, entry, verify=verify)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder / MANIFEST} must be as this program writes it (got {error!r})") from error
    return manifest


def _why_no_store(folder: Path) -> str:
    """Why there is no store at a path, and what to do."""
    if folder.is_file():
        return f"{folder} is a file, not a store: make a store of a log with tsa prepare"
    why = f"it has no {MANIFEST}" if folder.is_dir() else "no such folder"
    return f"{folder} is not a store ({why}): correct the path, or make a store with tsa prepare"


def check_complete(folder: Path, manifest: Mapping[str, Any], market: Market) -> None:
    """Raise StoreError if the manifest lacks a file that a store of this market needs."""
    for name in files_of(market):
        if name not in manifest["files"]:
            raise StoreError(f"{folder / MANIFEST} must list {name} (got {sorted(manifest['files'])})")


def n_stored(manifest: Mapping[str, Any]) -> int:
    """Events in the arrays: the payments, and the earlier payments that their rows carry."""
    return int(manifest.get("n_stored", manifest["n_events"]))


def open_array(
    folder: Path, name: str, manifest: Mapping[str, Any], dtype: type[np.generic], rows: int | None
) -> NDArray[Any]:
    """Map one array (rows, ...) into memory, read-only. `rows` None: the number that the manifest gives for the file.

    Raises:
        StoreError: If it does not match the manifest.
    """
    try:
        array: NDArray[Any] = np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False))
        shape = manifest["files"][name]["shape"]
        expected = (shape[0] if rows is None else rows, *shape[1:])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / name} cannot be read: {error!r}") from error
    if array.shape != expected or array.dtype != dtype:
        actual = f"{array.shape} {array.dtype}"
        raise StoreError(f"{folder / name} must have shape {expected} and type {np.dtype(dtype)} (got {actual})")
    return array


def _check_file(path: Path, entry: Mapping[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise StoreError(f"{path} is missing")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise StoreError(f"{path} must have {entry['bytes']} bytes (got {size})")
    if verify and sha256_of(path) != entry["sha256"]:
        raise StoreError(f"{path} was changed: its sha256 is not the one in the manifest")
