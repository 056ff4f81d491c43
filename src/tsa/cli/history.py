"""Commands on history stores: fill one, look at it, forget a person, let old payments go, go on with one that was lost."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from tsa.cli.app import Logs, MarketSets, Quarantine, QuarantineLimit, Quiet, app, log_path_for, set_aside
from tsa.cli.console import command_session, print_line
from tsa.cli.score import BundleFolder
from tsa.config.market import Market
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs
from tsa.times import DAY_SECONDS

history = typer.Typer(
    no_args_is_help=True, help="The history store that `tsa serve` reads: fill it, look, erase, expire, adopt."
)
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
        help="Keep histories in a Redis that may drop keys: what it drops is noticed, and not scored with.",
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
    """Fill a store from a log: of each key the last payments, with their outcomes and when these are known.

    It may be done again, or while the endpoint runs: what is in the store already stays as it is.
    """
    from tsa.inference.scorer import Scorer
    from tsa.serving.history.backfill import backfill
    from tsa.serving.history.factory import open_history

    file = _named(url) if url.startswith("sqlite:") else None
    log = log_path_for(_named(url))
    check_outputs([bundle, *logs], files={"--history": file, "--quarantine": quarantine, "its log file": log})
    opened = Scorer.load(bundle, set_ or ()).bundle
    with open_history(url, allow_eviction=allow_eviction) as store, command_session(quiet, log) as bars:
        filled = backfill(store, opened, logs, quarantine=set_aside(quarantine, quarantine_limit), progress=bars)
    print_line(f"{filled.read:,} payments read, {filled.added:,} added, {filled.changed:,} histories changed")


@history.command()
def show(
    url: Url,
    key: Annotated[
        str | None, typer.Option("--key", help="HISTORY=VALUE: the payments of one key.", show_default=False)
    ] = None,
) -> None:
    """Say what a store is of and how much it holds; with --key the payments it has of one customer, card, ..."""
    from tsa.serving.history.base import PAYMENTS
    from tsa.serving.history.factory import open_history
    from tsa.serving.history.maintenance import history_lines
    from tsa.serving.history.metadata import read_metadata, stored_market

    with open_history(url, new="refuse", allow_eviction=True) as store:
        market = stored_market(store)
        if key is not None:
            for line in history_lines(store, _key(market, key)):
                print_line(line)
            return
        store_metadata = read_metadata(store) or {}
        print_line(
            f"market {market.name}, fingerprint {store_metadata['market_fingerprint']}, encoding {store_metadata['encoding']}"
        )
        print_line(f"payments: {sum(1 for _ in store.scan(PAYMENTS)):,}")
        for found in market.history:
            print_line(f"{found.name} ({found.key_column}): {sum(1 for _ in store.scan(found.name)):,} keys")


@history.command("delete")
def delete(
    url: Url,
    key: Annotated[
        str,
        typer.Option("--key", help="HISTORY=VALUE, such as customer=1234, as payments have it.", show_default=False),
    ],
) -> None:
    """Forget a person: all payments of a key, in every history they stand in, with their values and answers.

    Where the market asks for pseudonyms, give the value itself; its secret must be in the environment.
    """
    from tsa.serving.history.factory import open_history
    from tsa.serving.history.maintenance import erase as erase_key
    from tsa.serving.history.metadata import stored_market

    with open_history(url, new="refuse", allow_eviction=True) as store:
        removed = erase_key(store, _key(stored_market(store), key))
    print_line(f"erased: {removed.payments:,} payments, {removed.events:,} events in histories")


@history.command()
def prune(
    url: Url,
    days: Annotated[
        float | None, typer.Option(help="Instead of the market's privacy.retention_days.", show_default=False)
    ] = None,
) -> None:
    """Let go of payments that are older than may be kept: by the market's privacy.retention_days, or by --days."""
    from tsa.serving.history.factory import open_history
    from tsa.serving.history.maintenance import expire as expire_before
    from tsa.serving.history.metadata import stored_market

    with open_history(url, new="refuse", allow_eviction=True) as store:
        market = stored_market(store)
        seconds = market.retention_seconds if days is None else days * DAY_SECONDS
        if not 0 < seconds < math.inf:
            raise ConfigError(f"--days must be given and above 0 where the market keeps payments for ever (got {days})")
        removed = expire_before(store, time.time() - seconds, [found.name for found in market.history])
    print_line(f"let go: {removed.payments:,} payments, {removed.events:,} events in histories")


@history.command()
def adopt(url: Url) -> None:
    """Go on with a store that was refused: one that was emptied, replaced, restored from a copy, or has lost histories.

    Payments are then scored with the histories that are there. Servers that refuse the store take it from then on.
    """
    from tsa.serving.history.base import PAYMENTS
    from tsa.serving.history.factory import open_history

    with open_history(url, new="adopt") as store:
        store.adopt()
        count = sum(1 for _ in store.scan(PAYMENTS))
    print_line(f"adopted: {'' if count else 'new store, '}{count:,} payments")


def _named(url: str) -> Path:
    """The file of a store, or a name for one elsewhere: the log file stands beside it."""
    scheme, _, rest = url.partition(":///")
    return Path(rest.partition("?")[0]) if scheme == "sqlite" else Path("tsa-history")


def _key(market: Market, text: str) -> tuple[str, str]:
    """HISTORY=VALUE as the store has it: veiled where the market asks for it."""
    from tsa.serving.history.metadata import pseudonymised

    name, has, value = text.partition("=")
    columns = {found.name: str(found.key_column) for found in market.history}
    if not has or name not in columns or not value:
        raise ConfigError(f"--key must be HISTORY=VALUE with a history of {sorted(columns)} (got {text!r})")
    return name, pseudonymised(market, columns[name], value)
