"""Accuracy on the Fraud Detection Handbook's payments, by the book's protocol: four folds, one model each.

    python benchmarks/handbook.py DATA [--folds 0,1,2,3] [--jobs 2] [--seed 0] [--set training.epochs=12]

DATA holds TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT, TX_FRAUD. Fold k trains on everything from day 36
to the end of its training week, leaves out seven days (labels become known seven days after a payment) and tests on the
week after that; the last test week ends with the data, and each further fold lies a week earlier. From each test day,
payments of customers already known to be compromised are left out: those with a fraud in the training week, or since then
on a day up to eight days before the test day. Prints ROC AUC, average precision and card precision@100 of each fold and
their means.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import tsa
from tsa.config.overrides import Overrides
from tsa.evaluation.metrics.evaluate_scores import card_precision_at_k
from tsa.inference.scorer import Scorer
from tsa.training import TrainingConfig

MARKET = Path(__file__).parents[1] / "markets" / "handbook.toml"
DAY = 86_400
WEEK = timedelta(days=7)
FIRST_TRAINING_DAY = 36
CUSTOMER = "CUSTOMER_ID"


def days_of(data: str) -> tuple[datetime, datetime]:
    """The first day of the data, and the day after the last."""
    time = pl.col("TX_DATETIME")
    first, last = pl.scan_parquet(data).select(time.min().alias("first"), time.max().alias("last")).collect().row(0)
    start, end = (datetime(t.year, t.month, t.day, tzinfo=UTC) for t in (first, last))
    return start, end + timedelta(days=1)


def fold_ranges(first: datetime, end: datetime, k: int) -> dict[str, tuple[datetime, datetime]]:
    """The time ranges of fold k. Validation and calibration are learned from as well: nothing is chosen by them here."""
    test_end = end - k * WEEK
    week_end = test_end - 2 * WEEK
    edges = [first + timedelta(days=FIRST_TRAINING_DAY), week_end - WEEK, week_end - WEEK / 7, week_end]
    names = ("train", "validation", "calibration")
    return dict(zip(names, pairwise(edges), strict=True)) | {"test": (test_end - WEEK, test_end)}


def eligible(store: tsa.EventStore, ranges: dict[str, tuple[datetime, datetime]]) -> np.ndarray:
    """Test rows without the payments of customers known to be compromised by then."""
    customer = store.columns([CUSTOMER])[CUSTOMER].to_physical().to_numpy()
    day = (np.asarray(store.time_seconds) // DAY).astype(np.int64)
    first_day = int((ranges["calibration"][1] - WEEK).timestamp() // DAY)
    fraud = (np.asarray(store.label) == 1) & (day >= first_day)
    week_end = first_day + 7
    kept = []
    for test_day in range(int(ranges["test"][0].timestamp() // DAY), int(ranges["test"][1].timestamp() // DAY)):
        known = np.unique(customer[fraud & (day < max(week_end, test_day - 7))])
        rows = np.flatnonzero(day == test_day)
        kept.append(rows[~np.isin(customer[rows], known)])
    return np.concatenate(kept)


def run_fold(data: str, k: int, sets: list[str]) -> dict[str, float]:
    """Train and test fold k on one thread: folds run side by side, and one thread gives the same weights every time."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return measure_fold(data, k, sets, Path(folder))


def measure_fold(data: str, k: int, sets: list[str], folder: Path) -> dict[str, float]:
    ranges = fold_ranges(*days_of(data), k)
    split = [f'split.{name}=["{start.isoformat()}", "{end.isoformat()}"]' for name, (start, end) in ranges.items()]
    settings = Overrides.read([*split, *sets], MARKET)
    store = tsa.prepare(settings.market, [data], folder / f"store-{k}")
    training = TrainingConfig.make(
        {"early_stopping": False, "train_on": ["train", "validation", "calibration"], **settings.training}
    )
    began = time.perf_counter()
    bundle = tsa.train(store, folder / f"run-{k}", model=settings.model, training=training)
    seconds = time.perf_counter() - began
    rows = eligible(store, ranges)
    score, label = Scorer(bundle).score_rows(store, rows), store.label[rows]
    day = (store.time_seconds[rows] // DAY).astype(np.int64)
    customer = store.columns([CUSTOMER])[CUSTOMER].to_physical().to_numpy()[rows]
    return {
        "auc": float(roc_auc_score(label, score)),
        "ap": float(average_precision_score(label, score)),
        "cp@100": card_precision_at_k(day, customer, score, label, 100)[0],
        "payments": len(rows),
        "frauds": int(label.sum()),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a Parquet file of the handbook's payments")
    parser.add_argument("--folds", default="0,1,2,3", help="which folds, 0 being the latest")
    parser.add_argument("--jobs", type=int, default=2, help="folds at a time, each on one thread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="sets", action="append", default=[], help="as for tsa train")
    arguments = parser.parse_args()
    columns = ("auc", "ap", "cp@100", "payments", "frauds", "seconds")
    print("fold  " + "".join(f"{name:>10}" for name in columns))
    sets = [f"training.seed={arguments.seed}", *arguments.sets]
    found = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        folds = [int(k) for k in arguments.folds.split(",")]
        waiting = [pool.submit(run_fold, arguments.data, k, sets) for k in folds]
        for k, fold in zip(folds, waiting, strict=True):
            found.append(fold.result())
            print(f"{k:<6}" + "".join(f"{found[-1][name]:>10.4g}" for name in columns), flush=True)
    print("mean  " + "".join(f"{np.mean([f[name] for f in found]):>10.4f}" for name in columns[:3]))
    print(f"torch {torch.__version__}, one thread a fold, seed {arguments.seed}, set: {arguments.sets}")


if __name__ == "__main__":
    main()
