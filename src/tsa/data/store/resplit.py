"""A store with other time ranges, made from a store: the encoder is fitted again, and everything else is shared.

Files that do not depend on the ranges are linked and not copied, where the file system can.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsa.config.market import SPLITS, Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.store.arrays import FolderArrays
from tsa.data.store.build import manifest_of
from tsa.data.store.data_report import late_outcomes
from tsa.data.store.encoded_rows import encode_rows
from tsa.data.store.manifest import ENCODER, MANIFEST, MARKET, REPORT
from tsa.data.store.splits import Split, is_scored
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.files.outputs import check_outputs
from tsa.files.writing import atomic_folder, file_entry, write_json
from tsa.progress import Progress, silent
from tsa.times import iso

Ranges = Mapping[str, tuple[float, float]]
"""[start, end) in epoch seconds by range."""

REFITTED = ("categorical.npy", "numerical.npy", "engineered.npy")
WRITTEN = (*REFITTED, MARKET, ENCODER, REPORT)
"""Files that depend on the ranges."""


def resplit(
    store: EventStore,
    ranges: Ranges,
    out: str | Path,
    *,
    learned: Sequence[str] = ("train",),
    may_be_empty: Sequence[str] = (),
    progress: Progress = silent,
) -> EventStore:
    """Write the store `out` with the payments of `store` and other ranges.

    The encoder is fitted on the `learned` ranges alone, so nothing later has any part in it. Rows that carry their own
    history cannot be encoded again from a store: they keep the store's encoder.

    Args:
        store: A store with files.
        ranges: Train, validation, calibration and test, as `[split]` asks: in this order, with the label delay before the
            test range.
        out: The folder to write.
        learned: The ranges whose payments the encoder may know, one after the other.
        may_be_empty: Ranges that need no payments.
        progress: Reports progress.

    Returns:
        The store, opened.

    Raises:
        MarketError: If the ranges break a rule of `[split]`.
        DataError: If a range has no payments.
        ConfigError: If `out` is the store, has other content, or `store` is a table in memory.
    """
    if store.is_in_memory:
        raise ConfigError("only a store with files can be split again (got a table in memory)")
    market, out = with_ranges(store.market, ranges), Path(out)
    check_outputs([store.path], replaced={"out": out})
    splits = _splits(store, market, ranges, may_be_empty)
    encoder = _encoder(store, market, splits, learned)
    with atomic_folder(out, MANIFEST, private=True) as folder:
        entries = dict(store.manifest["files"])
        changed = WRITTEN if market.wire is None else (MARKET, ENCODER, REPORT)
        for name in entries:
            if name not in changed:
                _link(store.path / name, folder / name)
        report = dict(store.data_report)
        if market.wire is None:
            made, unknown = encode_rows(
                market, encoder, store.clean, len(store), FolderArrays(folder), progress, with_raw=False
            )
            entries |= made
            report["unknown_rates"] = {name: count / len(store) for name, count in unknown.items()}
        report["known_too_late"] = late_outcomes(store.clean, splits)
        write_json(folder / REPORT, report)
        write_json(folder / MARKET, market.to_dict())
        encoder.save(folder / ENCODER)
        entries |= {name: file_entry(folder / name) for name in (REPORT, MARKET, ENCODER)}
        manifest = manifest_of(market, encoder, len(store), splits, entries)
        if "n_stored" in store.manifest:
            manifest["n_stored"] = store.manifest["n_stored"]
        write_json(folder / MANIFEST, manifest)
    return EventStore.open(out)


def with_ranges(market: Market, ranges: Ranges) -> Market:
    """The market with these time ranges. Raises MarketError."""
    table = market.to_dict()
    table["split"] = {name: [iso(start), iso(end)] for name, (start, end) in ranges.items()}
    return Market.from_dict(table)


def _splits(store: EventStore, market: Market, ranges: Ranges, may_be_empty: Sequence[str]) -> dict[str, Split]:
    """The rows of each range."""
    times = np.asarray(store.time_seconds)
    scored = is_scored(market, store.clean)
    splits = {}
    for name in SPLITS:
        start, end = (moment.timestamp() for moment in market.split.ranges[name])  # rounded as the market says them
        begin, stop = (int(row) for row in np.searchsorted(times, [start, end]))
        has_none = begin == stop or (scored is not None and not scored[begin:stop].any())
        if has_none and name not in may_be_empty:
            shown = f"{iso(start)} to {iso(end)}"
            raise DataError(
                f"the {name} range must hold payments (got none from {shown}); the log spans {iso(times[0])} to {iso(times[-1])}"
            )
        splits[name] = {"rows": [begin, stop], "start_seconds": start, "end_seconds": end}
    return splits


def _encoder(store: EventStore, market: Market, splits: Mapping[str, Split], learned: Sequence[str]) -> Encoder:
    if market.wire is not None:
        return store.encoder
    first = min(splits[name]["rows"][0] for name in learned)
    last = max(splits[name]["rows"][1] for name in learned)
    return Encoder.fit(market, store.clean.slice(first, last - first))


def _link(source: Path, target: Path) -> Any:
    """Share a file that is never changed in place."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
