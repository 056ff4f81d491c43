"""Commands on logs of decisions: `tsa decisions show | replay | compare | export | prune`."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from tsa.cli.app import MarketSets, Quiet, app, log_path_for
from tsa.cli.console import command_session, print_line
from tsa.cli.groups import make_group
from tsa.cli.terminal.results import result as set_result
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs
from tsa.times import DAY_SECONDS

decisions = make_group("Read the log of decisions that `tsa serve --decision-log` writes.")
app.add_typer(decisions, name="decisions")

Folder = Annotated[Path, typer.Argument(help="The folder of the log of decisions.", show_default=False)]
Start = Annotated[str | None, typer.Option("--from", help="Only answers from this time on, such as 2025-04-16; UTC.")]
End = Annotated[str | None, typer.Option("--to", help="Only answers before this time.")]
Other = Annotated[Path, typer.Option("--bundle", help="The bundle that is asked instead.", show_default=False)]
EarlierLogs = Annotated[
    list[str] | None,
    typer.Option("--log", help="A log with earlier payments, for the histories. Repeatable.", show_default=False),
]


@decisions.command()
def show(
    folder: Folder,
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="The payment's id, as payments have it.", show_default=False)
    ],
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="A bundle of the market, if ids are pseudonyms; its secret must be set."),
    ] = None,
) -> None:
    """Show what was answered to a payment, why, and its outcomes: one JSON document for each entry, by time.

    Exit code 2 if the log has no such payment.
    """
    from tsa.serving.decisions.read_decisions import entries_of

    recorded = id_ if bundle is None else _recorded_id(bundle, id_)
    entries = list(entries_of(folder, recorded))
    if not entries:
        advice = "" if bundle else "; if the market pseudonymises ids, give --bundle"
        raise ConfigError(f"the log of decisions has no payment {id_!r}{advice}")
    set_result(orjson.loads(orjson.dumps(entries, default=_plain)))
    for entry in entries:
        print_line(orjson.dumps(entry, default=_plain, option=orjson.OPT_INDENT_2).decode())


@decisions.command()
def replay(
    folder: Folder,
    other: Other,
    logs: EarlierLogs = None,
    start: Start = None,
    end: End = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A Parquet or CSV file with both answers to each payment.")
    ] = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Say what another bundle would have answered: score the recorded payments again, and compare."""
    from tsa.inference.scorer import Scorer
    from tsa.serving.decisions.replay import replay as score_again
    from tsa.serving.decisions.replay import sentence

    check_outputs([folder, other, *(logs or [])], files={"--out": out})
    _check_ending(out)
    since, until = _range(start, end)
    with command_session(quiet, None if out is None else log_path_for(out)) as bars:
        scorer = Scorer.load(other, set_ or ())
        compared, result = score_again(folder, scorer, logs=logs or (), since=since, until=until, progress=bars)
    set_result(result)
    print_line(f"{result['payments']:,} payments, {result['outcomes']:,} outcomes known, {result['frauds']:,} frauds")
    for why, count in result["left_out"].items():
        if count:
            print_line(f"left out: {count:,} ({why})")
    largest, mean = result["largest_difference"], result["mean_difference"]
    print_line(f"raw scores differ by {mean:.4g} on average, by {largest:.4g} at most; PSI {result['psi']:.4g}")
    for row in result["decisions"]:
        pair = f"{row['decision'] or '(none)'} -> {row['other_decision'] or '(none)'}"
        print_line(f"{pair}: {row['payments']:,} payments, {row['frauds']:,} known frauds")
    for name, values in (result["metrics"] or {}).items():
        print_line(sentence(name.replace("_", " "), values))
    if out is not None:
        _write(compared, out)


@decisions.command()
def compare(
    folder: Folder,
    start: Start = None,
    end: End = None,
    amount: Annotated[
        str | None, typer.Option(help="The column with the money at stake, to compare money.", show_default=False)
    ] = None,
    accept: Annotated[str, typer.Option(help="The decision that lets a payment through.")] = "accept",
    split_by: Annotated[
        str | None, typer.Option("--split-by", help="As given to tsa serve.", show_default=False)
    ] = None,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 1000,
) -> None:
    """Compare champion and challenger: scores, decisions, outcomes so far and money, and whether they clearly differ."""
    from tsa.serving.decisions.compare import compare_arms, sentence

    since, until = _range(start, end)
    settings: dict[str, Any] = {"amount": amount, "accept": accept, "split_by": split_by, "replicates": replicates}
    result = compare_arms(folder, since=since, until=until, **settings)
    set_result(result)
    for arm, own in result["arms"].items():
        quantiles = ", ".join(f"{value:.4g}" for value in own["raw_score"].values())
        made = ", ".join(f"{name} {count:,}" for name, count in own["decisions"].items())
        print_line(
            f"{arm} ({', '.join(own['versions'])}): {own['payments']:,} payments of {own['keys']:,} keys; {made}"
        )
        print_line(f"  {own['outcomes']:,} outcomes known, {own['frauds']:,} frauds")
        print_line(f"  raw score, median and 90 and 99 percent of payments below: {quantiles}")
    print_line(f"PSI of the raw scores: {result['psi']:.4g}")
    for name, values in result["measures"].items():
        print_line(sentence(name, values))


@decisions.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="A Parquet or CSV file.", show_default=False)],
    start: Start = None,
    end: End = None,
) -> None:
    """Write the first answer to each payment, with its outcome so far, into one file."""
    from tsa.serving.decisions.read_decisions import answered

    check_outputs([folder], files={"--out": out})
    _check_ending(out)
    since, until = _range(start, end)
    answers = answered(folder, since=since, until=until)
    _write(answers, out)
    set_result({"out": str(out), "payments": len(answers)})
    print_line(f"{out}: {len(answers):,} payments")


@decisions.command()
def prune(
    folder: Folder,
    days: Annotated[
        float, typer.Option(help="Delete days that ended more than this many days ago.", show_default=False)
    ],
) -> None:
    """Delete the days that ended more than --days ago; a server does so by its market's privacy.retention_days."""
    from tsa.serving.analyst_queue.erase import prune_decisions
    from tsa.serving.decisions.parquet_files import need_log

    need_log(folder)
    if not 0 < days < math.inf:
        raise ConfigError(f"--days must be above 0 (got {days})")
    count = prune_decisions(folder, time.time() - days * DAY_SECONDS)
    set_result({"files": count})
    print_line(f"deleted: {count:,} files")


def _recorded_id(bundle: Path, id_: str) -> str:
    """The id as recorded: a pseudonym where the market asks for it."""
    from tsa.bundle.bundle import Bundle
    from tsa.serving.history.metadata import pseudonymised

    market = Bundle.open(bundle).market
    return pseudonymised(market, market.event.id, id_)


def _range(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    from tsa.data.time_range import window_seconds

    since, until = window_seconds(start, end)
    return (since if math.isfinite(since) else None), (until if math.isfinite(until) else None)


def _check_ending(out: Path | None) -> None:
    from tsa.files.writing import need_suffix

    if out is not None:
        need_suffix("--out", out, ".parquet", ".csv")


def _write(table: Any, out: Path) -> None:
    from tsa.files.writing import atomic_file

    with atomic_file(out, private=True) as temporary:
        if out.suffix == ".csv":
            nested = [name for name, kind in table.schema.items() if kind.is_nested()]
            table.drop(nested).write_csv(temporary)
        else:
            table.write_parquet(temporary)


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)
