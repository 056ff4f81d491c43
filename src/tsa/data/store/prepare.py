"""Make stores of logs: `prepare` writes one completely or not at all, `encoded_log` gives a temporary one for scoring."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.log.quarantine import QuarantineLike, quarantine_path
from tsa.data.store.build import build_in_memory, build_store
from tsa.data.store.object_store import new_store
from tsa.data.store.store import EventStore
from tsa.data.workers import HERE, Workers
from tsa.files.object_folder import object_url
from tsa.files.outputs import check_outputs
from tsa.progress import Progress, silent

Logs = str | Path | Sequence[str | Path]
MAX_TABLE_BYTES = 256 * 2**20
"""A larger table is encoded through files, so that memory stays bounded."""


def prepare(
    market: Market,
    logs: Logs,
    out: str | Path,
    *,
    quarantine: QuarantineLike = None,
    encoder: Encoder | None = None,
    with_splits: bool = False,
    progress: Progress = silent,
    workers: Workers = HERE,
) -> EventStore:
    """Convert a payment log into the store `out`. It appears when it is complete, and replaces an older store there.

    Args:
        market: What the columns mean.
        out: A folder, or a URL in an object storage (`s3://`, `gs://`).
        logs: A file, a glob or a URL, or several.
        quarantine: A file for rows that break a rule. Without it such rows are an error.
        encoder: Encode with this encoder, as for scoring. Nothing is fitted, the label column may be absent, and the
            store has no splits.
        with_splits: With an encoder: the store has the market's splits, and the log needs outcomes.
        progress: Reports long work.
        workers: Work on parts of the rows. The files of the store do not depend on them.

    Raises:
        DataError: For rows that cannot be used, or a split without rows.
        MarketError: If the encoder is for other features.
        ConfigError: If `out` is a folder with other content, or if an output is an input.

    Example:
        >>> store = tsa.prepare(tsa.Market.load("market.toml"), "payments.parquet", "store")
        >>> len(store)
        6000
    """
    names = log_names(logs)
    check_outputs(
        names, files={"quarantine": quarantine_path(quarantine)}, replaced={} if object_url(out) else {"out": out}
    )
    if encoder is not None:
        encoder.check_market(market)
    with new_store(out) as folder:
        build_store(
            market,
            names,
            folder.absolute(),
            quarantine=quarantine,
            encoder=encoder,
            with_splits=with_splits,
            progress=progress,
            workers=replace(workers, folder=folder.absolute()),
        )
    return EventStore.open(out, market)


def log_names(logs: Logs) -> list[str]:
    """The names of logs, of which one alone need not be in a list."""
    return [str(logs)] if isinstance(logs, str | Path) else [str(log) for log in logs]


@contextmanager
def encoded_log(
    market: Market,
    payments: pl.DataFrame | Logs,
    encoder: Encoder,
    *,
    quarantine: QuarantineLike = None,
    progress: Progress = silent,
) -> Iterator[EventStore]:
    """Yield the payments of a log as a temporary store made with `encoder`; nothing is fitted.

    A small table of a market of logs stays in memory; anything else goes through files in a temporary folder. The
    store is bit-identical. The arrays in memory have no files, so its `path` is only a name.

    Args:
        market: What the columns mean.
        payments: A table, or files as `prepare` reads them.
        encoder: Encodes the payments.
        quarantine: A file for rows that break a rule. Without it such rows are an error.
        progress: Reports long work.

    Raises:
        DataError: For rows that cannot be used.
        MarketError: If the encoder is for other features.
    """
    encoder.check_market(market)
    if isinstance(payments, pl.DataFrame) and market.wire is None and payments.estimated_size() <= MAX_TABLE_BYTES:
        made = build_in_memory(market, payments, quarantine=quarantine, encoder=encoder, progress=progress)
        yield EventStore.in_memory(market, encoder, *made)
        return
    with tempfile.TemporaryDirectory(prefix="tsa-log-") as name:
        folder = Path(name)
        if isinstance(payments, pl.DataFrame):
            payments.write_parquet(folder / "payments.parquet")
            payments = folder / "payments.parquet"
        yield prepare(market, payments, folder / "store", quarantine=quarantine, encoder=encoder, progress=progress)
