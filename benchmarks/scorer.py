"""Single payments on one thread, from a payment and the earlier events of its keys to three scores: engines side by side.

    python benchmarks/scorer.py LOG [--market markets/handbook.toml]

A network of the default preset is trained for one short epoch (speed does not depend on what it has learned; how far a
quicker variant moves scores does, a little), with trees, calibrated and exported. Payments are those of the test range; the earlier
events of their keys are in memory, encoded, as a history store hands them out. Measured are the reading of the payment
(JSON values to arrays), the gathering of its histories, the network and the two calibrated scores. The engines take turns
in each round; the smallest p50 and the best rate of the rounds are printed, so that other work on the machine counts as
little as it can.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tsa
from tsa.bundle.bundle import Bundle
from tsa.data.online.encoded import EVENT_ARRAYS
from tsa.data.online.histories import HistoryEvents, Key
from tsa.inference.export_bundle import export_bundle
from tsa.inference.score_parts import score_events
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import ALONE, MEAN
from tsa.training import TrainingConfig

MARKET = Path(__file__).parents[1] / "markets" / "handbook.toml"
VARIANTS = (("torch", "float32"), ("torch", "bf16"), ("onnxruntime", "float32"), ("onnxruntime", "int8"))
SINGLE, BATCH = 200, 256
ROUNDS = 5


def past_of(store: tsa.EventStore, row: int, lengths: Mapping[str, int]) -> dict[Key, HistoryEvents]:
    """The earlier events of a payment's keys, as a history store would hand them out."""
    past: dict[Key, HistoryEvents] = {}
    for history in store.market.history:
        index = store.histories[history.name]
        end = int(index.position[row])
        rows = index.order[max(int(index.start[row]), end - lengths[history.name] + 1) : end]
        past[history.name, _key(store, history.key, row)] = HistoryEvents(
            ids=tuple(map(str, rows)), **{name: np.asarray(getattr(store, name)[rows]) for name in EVENT_ARRAYS}
        )
    return past


def _key(store: tsa.EventStore, column: str | None, row: int) -> str:
    return str(_columns(store)[column][row])


_cache: dict[Path, Any] = {}


def _columns(store: tsa.EventStore) -> Any:
    if store.path not in _cache:
        names = [store.market.event.id, *(history.key for history in store.market.history)]
        _cache[store.path] = store.columns(list(dict.fromkeys(names)))
    return _cache[store.path]


def payments_of(store: tsa.EventStore, log: str, rows: np.ndarray) -> list[dict[str, Any]]:
    """The payments as an endpoint gets them: plain values, the time spelled."""
    import polars as pl

    event = store.market.event
    ids = store.ids().gather(rows)
    found = pl.read_parquet(log).filter(pl.col(event.id).is_in(ids.implode()))
    by_id = {row[event.id]: row for row in found.to_dicts()}
    payments = [by_id[id_] for id_ in ids.to_list()]
    return [{**row, event.time: row[event.time].isoformat()} for row in payments]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="a Parquet file")
    parser.add_argument("--market", default=MARKET)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = tsa.prepare(tsa.Market.load(arguments.market), [arguments.log], folder / "store")
        config = TrainingConfig.make(
            {"epochs": 2, "importance_sampling_every": 0, "genuine_per_fraud": 5, "early_stopping": False}
        )
        tsa.train(store, folder / "run", model={"parts": "combined"}, training=config)
        for precision in ("float32", "int8"):
            export_bundle(folder / "run" / "bundle", precision)
        compare(store, folder / "run" / "bundle", arguments.log)


def compare(store: tsa.EventStore, bundle: Path, log: str) -> None:
    rows = np.random.default_rng(0).choice(store.labelled("test"), BATCH + SINGLE, replace=False)
    payments = payments_of(store, log, rows)
    lengths = Bundle.open(bundle).visible_lengths
    past = [past_of(store, int(row), lengths) for row in rows]
    together: dict[Key, HistoryEvents] = {}
    for one in past[:BATCH]:
        together.update(one)
    scorers = scorers_of(Bundle.open(bundle))
    single: dict[Variant, list[list[float]]] = {variant: [] for variant in scorers}
    batch: dict[Variant, list[float]] = {variant: [] for variant in scorers}
    for _ in range(ROUNDS):
        for variant, scorer in scorers.items():
            single[variant].append(each(scorer, payments[BATCH:], past[BATCH:]))
            batch[variant].append(seconds(lambda s=scorer: scored(s, payments[:BATCH], together)))
    checked = np.random.default_rng(1).choice(store.labelled("test"), 4096, replace=False)
    own = score_events(scorers["torch", "float32", "network"].engine, store, checked)
    print(
        f"{'engine':<12}{'precision':<10}{'parts':<10}{'p50 ms':>8}{'p99 ms':>8}{f'batch {BATCH}/s':>14}{'largest':>11}{'mean':>11}"
    )
    for variant, scorer in scorers.items():
        apart = np.abs(score_events(scorer.engine, store, checked).astype(np.float64) - own)
        p50 = min(np.percentile(found, 50) for found in single[variant]) * 1e3
        p99 = min(np.percentile(found, 99) for found in single[variant]) * 1e3
        rate = BATCH / min(batch[variant])
        print(
            f"{variant[0]:<12}{variant[1]:<10}{variant[2]:<10}{p50:>8.3f}{p99:>8.3f}{rate:>14,.0f}{apart.max():>11.2g}{apart.mean():>11.2g}"
        )
    print(f"one thread, torch {torch.__version__}; differences of {len(checked):,} scores from float32 in PyTorch")


Variant = tuple[str, str, str]


def scorers_of(bundle: Bundle) -> dict[Variant, Scorer]:
    """By engine, precision and parts: the network alone, and with trees, their log odds averaged."""
    forms = {"network": replace(bundle, joining=ALONE["network"]), "both": replace(bundle, joining=MEAN)}
    return {
        (engine, precision, form): Scorer(changed, engine=engine, precision=precision)  # type: ignore[arg-type]
        for engine, precision in VARIANTS
        for form, changed in forms.items()
    }


def scored(scorer: Scorer, payments: list[dict[str, Any]], past: dict[Key, HistoryEvents]) -> dict[str, Any]:
    """What an endpoint does for payments whose earlier events are at hand."""
    return scorer.score_requests(scorer.requests(scorer.reader.read_all(payments), past))


def each(scorer: Scorer, payments: list[dict[str, Any]], past: list[dict[Key, HistoryEvents]]) -> list[float]:
    scored(scorer, payments[:1], past[0])
    return [seconds(lambda at=at: scored(scorer, payments[at : at + 1], past[at])) for at in range(len(payments))]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
