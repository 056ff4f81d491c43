"""The commands `tsa init`, which proposes a market file for a log, and `tsa check`, which reports on one."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tsa.cli.app import Logs, LogSets, MarketFile, Quiet, app
from tsa.cli.console import command_session, console, errors, print_line
from tsa.cli.terminal.results import result
from tsa.config.market import Market
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs
from tsa.text import plural, shorten

if TYPE_CHECKING:
    from tsa.data.check.log_check import LogCheck
    from tsa.data.proposal.guesses import Guess

MAX_UNUSED = 20


@app.command()
def init(
    logs: Logs,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The market file to write; without --out it is printed.", show_default=False),
    ] = None,
    time: Annotated[str | None, typer.Option(help="The column of the time, if known.", show_default=False)] = None,
    id_: Annotated[str | None, typer.Option("--id", help="The column of the id.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="The column of the outcome.", show_default=False)] = None,
    amount: Annotated[str | None, typer.Option(help="The column of the amount.", show_default=False)] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="A column that names a customer, a card, ... Repeatable.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the most likely guess instead of asking.")] = False,
    name: Annotated[str, typer.Option("--name", help="The name of the market.")] = "my_market",
    quiet: Quiet = False,
) -> None:
    """Propose a market file for a log: each guess has its evidence in a comment.

    Asks where two columns are likely. Columns given as options are not guessed. Correct the file, then check the log with
    it: tsa check.
    """
    from tsa.data.proposal.known_columns import Given
    from tsa.data.proposal.propose import propose
    from tsa.files.writing import need_suffix, write_text

    check_outputs([*logs], files={"--out": out})
    if out is not None:
        need_suffix("--out", out, ".toml")
    with command_session(quiet, log=None) as bars, bars("reading the log", 1):
        given = Given(time=time, id=id_, label=label, amount=amount, keys=tuple(key or ()))
        text = propose(logs, _best if yes else _asked, name, given).text
        Market.from_dict(tomllib.loads(text))
    result({"out": None if out is None else str(out), "market": text})
    if out is None:
        print_line(text.rstrip())
        return
    write_text(out, text)
    print_line(f"{out}: a proposal; next: tsa check --market {out} {' '.join(logs)}")


def _best(question: str, options: Sequence[Guess]) -> Guess:
    return options[0]


def _asked(question: str, options: Sequence[Guess]) -> Guess:
    """Ask at the terminal; the first option is the default."""
    if not sys.stdin.isatty():
        names = " or ".join(one.column for one in options)
        raise ConfigError(f"{question} Likely: {names}. Answer at a terminal, or take the first with --yes")
    for number, one in enumerate(options, 1):
        print_line(f"  {number}. {one.column}: {one.evidence}", errors)
    while not 1 <= (chosen := int(typer.prompt(question, default=1, type=int, err=True))) <= len(options):
        print_line(f"a number from 1 to {len(options)}, please (got {chosen})", errors)
    return options[chosen - 1]


@app.command()
def check(logs: Logs, market: MarketFile, set_: LogSets = None, quiet: Quiet = False) -> None:
    """Check a log against a market file without writing anything: rules, columns, ranges, and what looks wrong."""
    from tsa.data.check.log_check import check_log

    with command_session(quiet, log=None) as bars, bars("checking", 1) as advance:
        checked = check_log(Market.load(market, set_ or ()), logs)
        advance(1)
    result(checked.to_dict())
    _print_report(checked)


def _print_report(checked: LogCheck) -> None:
    report = checked.report
    print_line(
        f"{report['rows_read']:,} rows read: {report['rows_kept']:,} usable, {report['rows_quarantined']:,} break a rule, "
        f"{report['rows_excluded']:,} excluded, {report['rows_replaced']:,} replaced"
    )
    for rule in checked.rules:
        values = rule.values or ("",) * len(rule.examples)
        first = ", ".join(
            (id_ if id_.startswith("row ") else f"id {shorten(id_)}")
            + (f" ({shorten(value)!r})" if value else " (no value)" if rule.values else "")
            for id_, value in zip(rule.examples, values, strict=True)
        )
        counted = f"{plural(rule.rows, 'row')}, {rule.frauds:,} of them fraud"
        print_line(f"{rule.name}: {rule.text}: {counted}; the first: {first}")
    table = Table("column", "use", "values", "missing", "unknown", "most frequent", "share", title="columns")
    for column in checked.columns:
        unknown = "" if column.unknown is None else f"{column.unknown:.1%}"
        top = shorten(column.most_frequent), f"{column.share:.1%}"
        table.add_row(column.name, column.use, f"{column.distinct:,}", f"{column.missing:.1%}", unknown, *top)
    console.print(table)
    if checked.ranges:
        table = Table("range", "from", "to", "payments", "labelled", "frauds", title="ranges")
        for one in checked.ranges:
            counts = (f"{count:,}" for count in (one.payments, one.labelled, one.frauds))
            table.add_row(one.name, _day(one.first), _day(one.last), *counts)
        console.print(table)
    if checked.unused:
        shown = ", ".join(checked.unused[:MAX_UNUSED]) + (", ..." if len(checked.unused) > MAX_UNUSED else "")
        print_line(f"columns of the log that the market does not use: {shown}")
    for note in checked.notes:
        print_line(f"note: {note.column}: {note.text}")
    if not checked.rules and not checked.notes:
        print_line("nothing unusual")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
