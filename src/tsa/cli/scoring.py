"""Commands that score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsa.cli.app import Logs, MarketSets, Quarantine, Quiet, app, beside
from tsa.terminal import say, session


@app.command()
def score(
    bundle: Annotated[Path, typer.Argument(help="A bundle, such as RUN/bundle.", show_default=False)],
    logs: Logs,
    out: Annotated[
        Path, typer.Option("--out", help="Parquet or CSV file for `id` and `raw_score`.", show_default=False)
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="Score payments from this time on, such as 2025-04-16; UTC.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Score payments before this time.")] = None,
    quarantine: Quarantine = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Score the payments of a log. Histories are taken from the whole log given, so give it the earlier payments too."""
    from tsa.scoring.scorer import Scorer, write_scores

    scorer = Scorer.load(bundle, set_ or ())
    with session(quiet, beside(out)) as bars:
        scores = scorer.score(logs, start=start, end=end, quarantine=quarantine, progress=bars)
        write_scores(scores, out)
    say(f"{out}: {len(scores):,} payments")
