"""The `tsa monitor` command."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsa.cli.app import MarketSets, OptionalLogs, Quarantine, QuarantineLimit, Quiet, app, quarantine_of
from tsa.cli.console import command_session, print_line
from tsa.cli.score import BundleFolder
from tsa.cli.terminal.results import result
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs
from tsa.signals import ending_in_order

if TYPE_CHECKING:
    from tsa.monitoring.watching.webhook import Webhook

OUTPUTS = ("monitor.json", "monitor.html", "monitor.log", "history.jsonl", "history.html")
ALERT = 3
"""Exit code when there is an alert."""


@app.command()
def monitor(
    bundle: BundleFolder,
    logs: OptionalLogs = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            help="Instead of LOGS: the log of decisions of a server. Uses only the answers of this bundle.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with: a log (repeatable), or the reference.json of an earlier run of this command; "
            "default: the range that the bundle was calibrated on, if it is in its run folder.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.")] = Path("monitor"),
    start: Annotated[
        str | None, typer.Option("--from", help="Monitor payments from this time on, such as 2025-04-16; UTC.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Monitor payments before this time.")] = None,
    last_days: Annotated[
        float | None,
        typer.Option("--last", help="Instead of --from: monitor the last N days, up to the last payment or to --to."),
    ] = None,
    reference_start: Annotated[
        str | None,
        typer.Option(
            "--reference-from", help="Compare with payments from this time on (of LOGS, without --reference)."
        ),
    ] = None,
    reference_end: Annotated[
        str | None, typer.Option("--reference-to", help="Compare with payments before this time.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Outcomes that were known by this time count; default: the last payment of LOGS.", show_default=False
        ),
    ] = None,
    market: Annotated[
        Path | None,
        typer.Option(
            "--market", "-m", help="Thresholds from this file's [monitoring] table; default: the bundle's market."
        ),
    ] = None,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    every_hours: Annotated[
        float | None,
        typer.Option(
            "--watch",
            help="Hours between two checks: repeats the check until SIGTERM, and writes history.jsonl and history.html too.",
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            envvar="TSA_WEBHOOK",
            help="With --watch: an address that gets each alert and failed check as JSON by POST. If the address "
            "contains a secret, set TSA_WEBHOOK instead of the option.",
            show_envvar=True,
        ),
    ] = None,
    webhook_token_env: Annotated[
        str | None,
        typer.Option(help="Name of an environment variable with a bearer token for the webhook."),
    ] = None,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Detect drift: compare the payments, scores, volume and performance of a bundle with a reference.

    Writes monitor.html, monitor.json and reference.json. Exit codes: 3 if there is an alert, 0 if not (a warning is not an
    alert), 2 for bad input; with --watch 0 after SIGTERM. Histories are built from the complete log, so include earlier
    payments and use --from.
    An outcome counts from the time it is known: the label's delay after the payment. Thresholds: the market's [monitoring] table.
    """
    from tsa.monitoring.expected_view import sentence
    from tsa.monitoring.monitor import monitor as check
    from tsa.monitoring.ranges import Span

    reference_quarantine = None if quarantine is None else quarantine.with_stem(f"{quarantine.stem}-reference")
    check_outputs(
        [bundle, *(logs or []), *(reference or []), market, decisions],
        files={
            "--quarantine": quarantine,
            "the quarantine of the reference": reference_quarantine,
            **{f"--out, {name}": out / name for name in OUTPUTS},
        },
        into={"--out": out},
    )
    hook = webhook_of(every_hours, webhook, webhook_token_env)
    span, reference_span = (
        Span(start=start, end=end, last_days=last_days),
        Span(start=reference_start, end=reference_end),
    )
    with command_session(quiet, out / "monitor.log") as bars:

        def checked() -> dict[str, Any]:
            return check(
                bundle,
                logs or (),
                out,
                reference=reference or (),
                span=span,
                reference_span=reference_span,
                as_of=as_of,
                market=market,
                overrides=set_ or (),
                quarantine=quarantine_of(quarantine, quarantine_limit),
                replicates=replicates,
                decisions=decisions,
                progress=bars,
            )

        if every_hours is not None:
            from tsa.monitoring.watching.watch import watch

            with ending_in_order(0):
                watch(checked, out, every_hours=every_hours, webhook=hook, on_entry=print_entry)
        report = checked()
    result({"out": str(out), "report": report})
    print_alerts(report)
    print_line(report["summary"])
    print_line(sentence(report["expected"]))
    print_line(f"page: {out / 'monitor.html'}")
    if any(alert["severity"] == "alert" for alert in report["alerts"]):
        raise typer.Exit(ALERT)


def webhook_of(every_hours: float | None, url: str | None, token_env: str | None) -> Webhook | None:
    """The webhook of a watch, if any. Raises ConfigError for options that do not fit together."""
    from tsa.monitoring.watching.webhook import Webhook

    if every_hours is not None and not 0 < every_hours < math.inf:
        raise ConfigError(f"--watch must be a number of hours above 0 (got {every_hours:g})")
    if token_env is not None and url is None:
        raise ConfigError("--webhook-token-env needs --webhook, or TSA_WEBHOOK (got neither)")
    if every_hours is None or not url:
        return None
    token = None if token_env is None else os.environ.get(token_env, "").strip()
    if token == "":
        raise ConfigError(f"the environment variable {token_env} must contain a token (got an empty value)")
    return Webhook(url=url, token=token)


def print_entry(entry: Mapping[str, Any]) -> None:
    """Print one line per check."""
    missed = "; the webhook was not reached" if entry.get("webhook_reached") is False else ""
    print_line(f"{entry['at']} {entry['status']}: {entry['summary']}{missed}")
    sys.stdout.flush()


def print_alerts(report: Mapping[str, Any]) -> None:
    """Print one line per alert or warning; lines are never wrapped, so that they can be piped."""
    for alert in report["alerts"]:
        about = f" of {alert['feature']}" if alert["feature"] else ""
        before = "" if alert["reference"] is None else f", reference {alert['reference']:.4g}"
        window = f"{alert['window']['start'][:10]} to {alert['window']['end'][:10]}"
        what = f"{alert['measure']}{about} {alert['value']:.4g}{before}, threshold {alert['threshold']:g}"
        print_line(f"{alert['severity']}: {what}, {window}")
