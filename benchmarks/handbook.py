"""Accuracy on the Fraud Detection Handbook's payments, by the book's protocol: a backtest of four folds, one model each.

    python benchmarks/handbook.py DATA [--folds 4] [--jobs 2] [--seed 0] [--out FOLDER] [--set training.epochs=12]

DATA holds TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT, TX_FRAUD. Each fold trains on everything from
day 36 to the end of its training week, leaves out seven days (labels become known seven days after a payment) and tests on
the week after that; the last test week ends with the data, and each earlier fold lies a week before. From each test day,
payments of customers already known to be compromised are left out: those with a fraud in the training week, or since then
on a day up to eight days before the test day. Prints ROC AUC, average precision and card precision@100 of each fold and
their means. With --out the folder of the backtest stays, and the same command continues it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import tsa
from tsa.backtest import BacktestSchedule, BacktestSettings, backtest
from tsa.config.overrides import Overrides
from tsa.data.store.manifest import MANIFEST
from tsa.evaluation.metrics.evaluate_scores import card_precision_at_k
from tsa.training import TrainingConfig

MARKET = Path(__file__).parents[1] / "markets" / "handbook.toml"
DAY = 86_400
WEEK = 7 * DAY
FIRST_TRAINING_DAY = 36
CUSTOMER = "CUSTOMER_ID"
RANGES = "split.fractions=[0.55, 0.15, 0.15, 0.15]"
"""Of the store that holds all payments; the folds have their own."""


def days_of(data: str) -> tuple[int, int]:
    """Epoch seconds of the first day of the data, and of the day after the last."""
    time = pl.col("TX_DATETIME")
    first, last = pl.scan_parquet(data).select(time.min().alias("first"), time.max().alias("last")).collect().row(0)
    start, end = (datetime(t.year, t.month, t.day, tzinfo=UTC) for t in (first, last))
    return int(start.timestamp()), int((end + timedelta(days=1)).timestamp())


def schedule_of(first: int, end: int, folds: int) -> BacktestSchedule:
    """The book's weeks. Validation and calibration are learned from as well: nothing is chosen by them here."""
    return BacktestSchedule(
        start=float(end - folds * WEEK),
        end=float(end),
        every=float(WEEK),
        test=float(WEEK),
        validation=6.0 * DAY,
        calibration=1.0 * DAY,
        begins=float(first + FIRST_TRAINING_DAY * DAY),
        shares=(1.0, 0.0, 0.0),
    )


def eligible(store: tsa.EventStore, tested: pl.DataFrame, start: int) -> pl.DataFrame:
    """The tested payments (id, time, …) without those of customers known to be compromised by then.

    Args:
        store: All payments.
        tested: Those of the test week.
        start: When the test week begins, in epoch seconds.
    """
    own = store.columns([CUSTOMER])[CUSTOMER].to_physical().to_numpy()
    day = (np.asarray(store.time_seconds) // DAY).astype(np.int64)
    tested = tested.join(pl.DataFrame({"id": store.ids(), CUSTOMER: own}), on="id", how="left", maintain_order="left")
    tested = tested.with_columns(pl.col("time").dt.epoch("s").floordiv(DAY).alias("day"))
    first_day, week_end = (start - 2 * WEEK) // DAY, (start - WEEK) // DAY
    fraud = (np.asarray(store.label) == 1) & (day >= first_day)
    kept = []
    for (test_day,), rows in tested.group_by("day", maintain_order=True):
        known = np.unique(own[fraud & (day < max(week_end, int(str(test_day)) - 7))])
        kept.append(rows.filter(~pl.col(CUSTOMER).is_in(known.tolist())))
    return pl.concat(kept)


def measured(store: tsa.EventStore, fold: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """The book's metrics of one fold."""
    start = int(datetime.fromisoformat(fold["now"]).timestamp())
    rows = eligible(store, pl.read_parquet(folder / "folds" / fold["name"] / "scores.parquet"), start)
    score, label = rows["model_score"].to_numpy(), rows["label"].to_numpy()
    return {
        "auc": float(roc_auc_score(label, score)),
        "ap": float(average_precision_score(label, score)),
        "cp@100": card_precision_at_k(rows["day"].to_numpy(), rows[CUSTOMER].to_numpy(), score, label, 100)[0],
        "payments": len(rows),
        "frauds": int(label.sum()),
        "seconds": fold["seconds"],
    }


def tested_folds(data: str, folds: int, jobs: int, sets: Sequence[str], folder: Path) -> None:
    """Run the backtest, or continue it, and print the metrics of each fold and their means."""
    settings = Overrides.read([RANGES, *sets], MARKET)
    is_there = (folder / "store" / MANIFEST).is_file()
    store = (
        tsa.EventStore.open(folder / "store") if is_there else tsa.prepare(settings.market, [data], folder / "store")
    )
    training = {"early_stopping": False, "train_on": ["train", "validation", "calibration"], **settings.training}
    result = backtest(
        store,
        folder,
        schedule=schedule_of(*days_of(data), folds),
        settings=BacktestSettings(
            model=settings.model, training=TrainingConfig.make(training), baseline=False, max_age=0, replicates=20
        ),
        workers=jobs,
        resume=is_there,
    )
    columns = ("auc", "ap", "cp@100", "payments", "frauds", "seconds")
    print("fold        " + "".join(f"{name:>10}" for name in columns))
    found = []
    for fold in result["folds"][::-1]:
        found.append(measured(store, fold, folder))
        print(f"{fold['name']:<12}" + "".join(f"{found[-1][name]:>10.4g}" for name in columns), flush=True)
    print("mean        " + "".join(f"{np.mean([f[name] for f in found]):>10.4f}" for name in columns[:3]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a Parquet file of the handbook's payments")
    parser.add_argument("--folds", type=int, default=4, help="how many weeks are tested, the latest of the data")
    parser.add_argument("--jobs", type=int, default=2, help="folds at a time, each on one thread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the folder of the backtest; default: one that is removed")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="as for tsa train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one thread gives the same weights every time
    sets = [f"training.seed={arguments.seed}", *arguments.sets]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary) / "backtest"
        tested_folds(arguments.data, arguments.folds, arguments.jobs, sets, folder)
    print(f"torch {torch.__version__}, one thread a fold, seed {arguments.seed}, set: {arguments.sets}")


if __name__ == "__main__":
    main()
