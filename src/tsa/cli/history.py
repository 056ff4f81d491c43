"""Commands on history stores: `tsa history load | show | export | delete | prune | adopt`."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsa.cli.app import Logs, MarketSets, Quarantine, QuarantineLimit, Quiet, app, log_path_for, quarantine_of
from tsa.cli.console import command_session, print_line
from tsa.cli.groups import make_group
from tsa.cli.score import BundleFolder
from tsa.cli.terminal.results import remains, result
from tsa.config.market import Market
from tsa.errors import ConfigError, HistoryError
from tsa.files.outputs import check_outputs
from tsa.times import DAY_SECONDS

history = make_group("Manage the history store that `tsa serve` uses: load, show, export, delete, prune, adopt.")
app.add_typer(history, name="history")

Url = Annotated[
    str,
    typer.Option("--history", envvar="TSA_HISTORY", help="sqlite:///FILE or redis://HOST:PORT/0.", show_default=False),
]
AllowEviction = Annotated[
    bool,
    typer.Option(
        "--allow-eviction",
        envvar="TSA_ALLOW_EVICTION",
        help="Allow a Redis that may evict keys. Payments of an evicted history are refused or scored without it.",
    ),
]


@history.command()
def load(
    bundle: BundleFolder,
    logs: Logs,
    url: Url,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    set_: MarketSets = None,
    allow_eviction: AllowEviction = False,
    quiet: Quiet = False,
) -> None:
    """Load the most recent payments of each key, with their outcomes and when these are known, from a log.

    Safe to repeat, also while the endpoint runs: payments already in the store are not changed.
    """
    from tsa.inference.scorer import Scorer
    from tsa.serving.history.backfill import backfill
    from tsa.serving.history.factory import open_history

    file = _named(url) if url.startswith("sqlite:") else None
    log = log_path_for(_named(url))
    check_outputs([bundle, *logs], files={"--history": file, "--quarantine": quarantine, "its log file": log})
    quarantined = quarantine_of(quarantine, quarantine_limit)
    opened = Scorer.load(bundle, set_ or ()).bundle
    remains("payments loaded so far stay in the store; the same command loads the rest")
    with open_history(url, allow_eviction=allow_eviction) as store, command_session(quiet, log) as bars:
        filled = backfill(store, opened, logs, quarantine=quarantined, progress=bars)
    result(asdict(filled))
    print_line(f"{filled.read:,} payments read, {filled.added:,} added, {filled.changed:,} histories changed")


@history.command()
def show(
    url: Url,
    key: Annotated[
        str | None, typer.Option("--key", help="HISTORY=VALUE: the payments of one key.", show_default=False)
    ] = None,
) -> None:
    """Show the market and the size of a store; with --key the stored payments of one customer, card, ..."""
    from tsa.serving.history.base import PAYMENTS
    from tsa.serving.history.factory import open_history
    from tsa.serving.history.maintenance import history_events
    from tsa.serving.history.metadata import read_metadata, stored_market

    _need(url)
    with open_history(url, new="refuse", allow_eviction=True) as store:
        market = stored_market(store)
        if key is not None:
            events = list(history_events(store, _key(market, key)))
            result({"key": key, "events": events})
            for event in events:
                print_line(f"{event['time']} {event['id']} {event['outcome']}")
            return
        store_metadata = read_metadata(store) or {}
        payments = sum(1 for _ in store.scan(PAYMENTS))
        keys = {entry.name: sum(1 for _ in store.scan(entry.name)) for entry in market.history}
        result({"market": market.name, **store_metadata, "payments": payments, "keys": keys})
        print_line(
            f"market {market.name}, fingerprint {store_metadata['market_fingerprint']}, encoding {store_metadata['encoding']}"
        )
        print_line(f"payments: {payments:,}")
        for entry in market.history:
            print_line(f"{entry.name} ({', '.join(entry.columns)}): {keys[entry.name]:,} keys")


@history.command()
def export(
    url: Url,
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to write.", show_default=False)],
    start: Annotated[
        str | None,
        typer.Option("--from", help="Payments from this time on, such as 2025-04-16; UTC.", show_default=False),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Payments before this time.", show_default=False)] = None,
    with_loaded: Annotated[
        bool, typer.Option("--with-loaded", help="Also payments that were loaded from a log and never scored.")
    ] = False,
    pseudonyms: Annotated[
        bool, typer.Option("--pseudonyms", help="Write pseudonyms where the store has no values.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write the payments that the endpoint has scored, with their outcomes, as a log for `tsa prepare` and `tsa retrain`."""
    from tsa.data.time_range import window_seconds
    from tsa.serving.history.export import export_log
    from tsa.serving.history.factory import open_history

    check_outputs([], files={"--out": out, "--history": _named(url) if url.startswith("sqlite:") else None})
    first, last = window_seconds(start, end)
    _need(url)
    with (
        open_history(url, new="refuse", allow_eviction=True) as store,
        command_session(quiet, log_path_for(out)) as bars,
    ):
        made = export_log(
            store,
            out,
            start_seconds=first,
            end_seconds=last,
            with_loaded=with_loaded,
            pseudonyms=pseudonyms,
            progress=bars,
        )
    print_line(f"{out}: {made.payments:,} payments, {made.with_outcome:,} with an outcome; {made.left_out:,} left out")
    if made.pseudonyms:
        print_line(f"pseudonyms: {', '.join(made.pseudonyms)}")


@history.command("delete")
def delete(
    url: Url,
    key: Annotated[
        str,
        typer.Option("--key", help="HISTORY=VALUE, such as customer=1234, as payments have it.", show_default=False),
    ],
    logs: Annotated[
        list[Path] | None,
        typer.Option("--decisions", help="Delete them from this log of decisions too. Repeatable.", show_default=False),
    ] = None,
) -> None:
    """Erase a customer's data: delete all payments of a key from every history, with their values and answers.

    If the market uses pseudonyms, give the value itself; the market's secret must be in the environment. A log of decisions
    that the server writes is reached with --decisions.
    """
    from tsa.serving.analyst_queue.erase import erase_decisions
    from tsa.serving.decisions.parquet_files import need_log
    from tsa.serving.history.factory import open_history
    from tsa.serving.history.maintenance import erase as erase_key
    from tsa.serving.history.metadata import stored_market

    for folder in logs or []:
        need_log(folder)
    _need(url)
    with open_history(url, new="refuse", allow_eviction=True) as store:
        place = _key(stored_market(store), key)
        removed = erase_key(store, place)
    result({"payments": removed.payments, "events": removed.events})
    print_line(f"deleted: {removed.payments:,} payments, {removed.events:,} events in histories")
    for folder in logs or []:
        print_line(f"deleted from {folder}: {erase_decisions(folder, place):,} payments")


@history.command()
def prune(
    url: Url,
    days: Annotated[
        float | None,
        typer.Option(help="How many days to keep, instead of the market's privacy.retention_days.", show_default=False),
    ] = None,
) -> None:
    """Delete payments that are older than the market's privacy.retention_days, or than --days."""
    from tsa.serving.history.factory import open_history
    from tsa.serving.history.maintenance import expire as expire_before
    from tsa.serving.history.metadata import stored_market

    _need(url)
    with open_history(url, new="refuse", allow_eviction=True) as store:
        market = stored_market(store)
        seconds = market.retention_seconds if days is None else days * DAY_SECONDS
        if not 0 < seconds < math.inf:
            raise ConfigError(f"--days must be above 0 if the market has no privacy.retention_days (got {days})")
        removed = expire_before(store, time.time() - seconds, [entry.name for entry in market.history])
    result({"payments": removed.payments, "events": removed.events})
    print_line(f"deleted: {removed.payments:,} payments, {removed.events:,} events in histories")


@history.command()
def adopt(url: Url) -> None:
    """Accept a store that was refused because it was emptied, replaced, restored from a copy, or has lost histories.

    Payments are then scored with the histories that are left. Running servers then accept it too.
    """
    from tsa.serving.history.base import PAYMENTS
    from tsa.serving.history.factory import open_history

    with open_history(url, new="adopt") as store:
        store.adopt()
        count = sum(1 for _ in store.scan(PAYMENTS))
    result({"payments": count})
    print_line(f"adopted: {'' if count else 'new store, '}{count:,} payments")


def _need(url: str) -> None:
    """Raise HistoryError if there is no SQLite store at this URL."""
    if url.startswith("sqlite:///") and not _named(url).exists():
        raise HistoryError(f"{url}: there is no such store: correct --history")


def _named(url: str) -> Path:
    """The path of a SQLite store, or a default name for others; the log file is written next to it."""
    scheme, _, rest = url.partition(":///")
    return Path(rest.partition("?")[0]) if scheme == "sqlite" else Path("tsa-history")


def _key(market: Market, text: str) -> tuple[str, str]:
    """Parse HISTORY=VALUE into a stored key: pseudonymized where the market asks for it."""
    from tsa.serving.history.metadata import pseudonymised

    name, has, value = text.partition("=")
    columns = {entry.name: entry.columns[0] for entry in market.history}  # of several, all or none are pseudonyms
    if not has or name not in columns or not value:
        raise ConfigError(f"--key must be HISTORY=VALUE with a history of {sorted(columns)} (got {text!r})")
    return name, pseudonymised(market, columns[name], value)
