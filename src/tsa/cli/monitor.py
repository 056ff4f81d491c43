"""The command that watches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tsa.cli.app import Logs, MarketSets, Quarantine, QuarantineLimit, Quiet, app, set_aside
from tsa.cli.console import command_session, print_line
from tsa.cli.score import BundleFolder
from tsa.files.outputs import check_outputs

ALERT = 3
"""The exit code that says so."""


@app.command()
def monitor(
    bundle: BundleFolder,
    logs: Logs,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with: a log (repeatable), or the reference.json of an earlier call; default: the "
            "range that the bundle was calibrated on, where it stands in its run.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.")] = Path("monitor"),
    start: Annotated[
        str | None, typer.Option("--from", help="Watch payments from this time on, such as 2025-04-16; UTC.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Watch payments before this time.")] = None,
    reference_start: Annotated[
        str | None,
        typer.Option("--reference-from", help="Compare with payments from this time on; without --reference of LOGS."),
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
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Watch what a bundle scores: have payments, scores, volume or performance moved from a reference?

    Writes monitor.html, monitor.json and reference.json. Ends with 3 on an alert, 0 without one (warnings alone are no
    alert), 2 for bad input. Histories are taken from the whole log given, so give it earlier payments too, with --from.
    Only outcomes that are known by now count, as the label's delay has it. Thresholds: the [monitoring] table of the market.
    """
    from tsa.monitoring.monitor import Span
    from tsa.monitoring.monitor import monitor as watch

    aside = None if quarantine is None else quarantine.with_stem(f"{quarantine.stem}-reference")
    check_outputs(
        [bundle, *logs, *(reference or []), market],
        files={
            "--quarantine": quarantine,
            "the quarantine of the reference": aside,
            **{f"--out, {name}": out / name for name in ("monitor.json", "monitor.html", "monitor.log")},
        },
        into={"--out": out},
    )
    with command_session(quiet, out / "monitor.log") as bars:
        found = watch(
            bundle,
            logs,
            out,
            reference=reference or (),
            span=Span(start=start, end=end),
            reference_span=Span(start=reference_start, end=reference_end),
            as_of=as_of,
            market=market,
            overrides=set_ or (),
            quarantine=set_aside(quarantine, quarantine_limit),
            replicates=replicates,
            progress=bars,
        )
    print_alerts(found)
    print_line(found["summary"])
    print_line(f"page: {out / 'monitor.html'}")
    if any(alert["severity"] == "alert" for alert in found["alerts"]):
        raise typer.Exit(ALERT)


def print_alerts(found: Mapping[str, Any]) -> None:
    """A line per alert or warning, whole in a pipe as well."""
    for alert in found["alerts"]:
        about = f" of {alert['feature']}" if alert["feature"] else ""
        before = "" if alert["reference"] is None else f", reference {alert['reference']:.4g}"
        window = f"{alert['window']['start'][:10]} to {alert['window']['end'][:10]}"
        what = f"{alert['measure']}{about} {alert['value']:.4g}{before}, threshold {alert['threshold']:g}"
        print_line(f"{alert['severity']}: {what}, {window}")
