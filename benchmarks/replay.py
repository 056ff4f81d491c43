"""Replay a log through the scoring service, one payment at a time or in batches, and compare each score with the offline one.

    python benchmarks/replay.py [BUNDLE LOG] [--payments 20000] [--batch 1] [--history sqlite:///FILE] [--seconds 3600]

Outcomes are reported when they become known, in order. Without BUNDLE and LOG: a simulated log, and random weights of the
default preset's sizes. With --payments 1000000 --batch 1 it takes hours; --batch 64 takes the payments that follow one another
together (but an outcome of one is never due within). Prints the largest difference, and per payment how long the store and
the model took. Ends with 1 when a score differs by more than 1e-6.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from history_load import untrained
from tsa.data.clean_columns import KNOWN_AT, LABEL, TIME
from tsa.data.store.prepare import prepare
from tsa.inference.scorer import Scorer
from tsa.serving.history.factory import open_history
from tsa.serving.scoring.scoring_service import ScoreResult, ScoringService
from tsa.simulation import SimulationConfig, write_simulation

TOLERANCE = 1e-6
Outcome = tuple[float, str, bool]
"""When it is known, of which payment, fraud or not."""


def steps(
    rows: list[dict[str, Any]], times: list[float], outcomes: list[Outcome | None], size: int
) -> Iterator[tuple[list[Outcome], list[dict[str, Any]]]]:
    """Batches of payments, each with the outcomes that become known before its first one, none within."""
    due: list[Outcome] = []
    at = 0
    while at < len(rows):
        told = []
        while due and due[0][0] <= times[at]:
            told.append(heapq.heappop(due))
        end, next_due = at, due[0][0] if due else math.inf
        while end < min(at + size, len(rows)) and (end == at or times[end] < next_due):
            outcome = outcomes[end]
            if outcome is not None:
                heapq.heappush(due, outcome)
                next_due = min(next_due, outcome[0])
            end += 1
        yield told, rows[at:end]
        at = end


def simulated(payments: int, folder: Path) -> tuple[Scorer, Path]:
    """A log in time order, and a bundle for it."""
    log = folder / "log.parquet"
    write_simulation(SimulationConfig(payments=payments), log)
    return Scorer(untrained(log, folder)), log


def clean(scorer: Scorer, log: Path, folder: Path) -> pl.DataFrame:
    """The payments in time order with `id`, their times and outcomes, beside the raw columns."""
    store = prepare(scorer.bundle.market, [log], folder / "encoded", encoder=scorer.bundle.encoder)
    return store.columns([*scorer.bundle.market.raw_columns, TIME, LABEL, KNOWN_AT])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("log", nargs="?", type=Path)
    parser.add_argument("--payments", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--history", help="an empty store's URL; by default a new SQLite file")
    parser.add_argument("--engine", default="torch", help="torch, onnxruntime or auto")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long, and compare what there is")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tsa-replay-") as name:
        folder = Path(name)
        if arguments.bundle is None:
            scorer, log = simulated(arguments.payments, folder)
        else:
            scorer, log = Scorer.load(arguments.bundle, engine=arguments.engine), arguments.log
        frame = clean(scorer, log, folder).head(arguments.payments)
        expected = scorer.score(log)
        scores = dict(zip(expected["id"].cast(pl.String), expected["raw_score"], strict=True))
        found = replayed(scorer, frame, arguments, folder)
    worst = max(abs(score - scores[id_]) for id_, score in found.items())
    print(f"{len(found):,} payments; largest difference from the offline score: {worst:.2e}")
    sys.exit(0 if worst <= TOLERANCE else 1)


def replayed(scorer: Scorer, frame: pl.DataFrame, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The raw scores by id; prints how long it took."""
    market = scorer.bundle.market
    if market.event.time_unit is not None:
        scale = {"s": 1.0, "ms": 1e3, "us": 1e6}[market.event.time_unit]
        given = (frame[TIME] * scale).to_list()
    else:
        given = pl.Series((frame[TIME] * 1e6).round().cast(pl.Int64)).cast(pl.Datetime("us", "UTC")).to_list()
    rows = [{**row, market.event.time: at} for row, at in zip(frame.drop("^__.*$").to_dicts(), given, strict=True)]
    ids = frame[market.event.id].cast(pl.String).to_list()
    outcomes: list[Outcome | None] = [
        (at, id_, bool(label)) if label >= 0 and math.isfinite(at) else None
        for at, id_, label in zip(frame[KNOWN_AT], ids, frame[LABEL], strict=True)
    ]
    taken: dict[str, list[float]] = {"read": [], "score": [], "write": [], "service": [], "outcome": []}
    found: dict[str, float] = {}
    began = time.perf_counter()
    with open_history(arguments.history or f"sqlite:///{folder / 'histories.db'}") as store:
        scoring_service = ScoringService(
            scorer, store, clock=lambda: math.inf, watch=lambda what, seconds: taken[what].append(seconds)
        )
        for told, batch in steps(rows, frame[TIME].to_list(), outcomes, arguments.batch):
            for at, id_, fraud in told:
                start = time.perf_counter()
                assert scoring_service.record_outcome(id_, fraud, at)
                taken["outcome"].append(time.perf_counter() - start)
            start = time.perf_counter()
            answers = scoring_service.score(batch)
            taken["service"].append(time.perf_counter() - start)
            for answer in answers:
                assert isinstance(answer, ScoreResult), answer
                found[answer.id] = answer.raw_score
            if time.perf_counter() - began > arguments.seconds:
                break
    seconds = time.perf_counter() - began
    print(f"{len(found) / seconds:,.0f} payments a second, in batches of {arguments.batch}")
    for what, values in taken.items():
        if values:
            shown = ", ".join(f"p{q} {1e3 * np.percentile(values, q):.3f} ms" for q in (50, 90, 99))
            print(f"  {what}: {shown} ({len(values):,} times, {sum(values):.1f} s)")
    return found


if __name__ == "__main__":
    main()
