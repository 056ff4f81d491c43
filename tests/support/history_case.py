"""A small market with its log and a bundle of random weights that look at histories; a Redis server; a replay.

Random weights score as well as trained ones where only sameness counts, and need no training.
"""

from __future__ import annotations

import heapq
import math
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.inference.scorer import Scorer
from tsa.model import TSANetwork
from tsa.model.network_and_trees import ALONE, Joining
from tsa.serving.history.base import PAYMENTS, HistoryStore
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.records import Record
from tsa.serving.scoring.scoring_service import RuleViolation, ScoreResult, ScoringService
from tsa.training.model_config import network_settings
from tsa.training.parts.trees import fit_trees

DAY = 86_400
START = 1_525_651_200
MARKET: dict[str, Any] = {
    "name": "shops",
    "event": {"id": "id", "time": "time", "time_unit": "s", "amount": "amount"},
    "label": {"column": "fraud", "known_at": "reported", "as_feature": True},
    "history": [
        {"name": "card", "key": "card", "length": 6},
        {"name": "shop", "key": "shop", "length": 9},
    ],
    "features": {
        "calendar": ["hour_of_day"],
        "categorical": [{"name": "kind", "min_count": 1}],
        "numerical": [{"name": "amount", "transform": "signed_log1p"}],
        "engineered": [{"name": "age"}],
    },
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
    "trees": {"history_length": 2},
}
Row = dict[str, Any]


def random_rows(n: int, seed: int = 0, *, cards: int = 40, shops: int = 15, gap: int = 600) -> list[Row]:
    """Payments in time order, many at the same second; outcomes of most become known within a day."""
    rng = np.random.default_rng(seed)
    times = START + np.cumsum(rng.integers(0, gap, n))
    rows = []
    for at, moment in enumerate(times.tolist()):
        fraud = [0, 0, 0, 1, 1, None][int(rng.integers(0, 6))]
        rows.append(
            {
                "id": f"p{at:06d}",
                "time": float(moment),
                "card": f"c{rng.integers(cards)}" if rng.random() > 0.1 else None,
                "shop": f"s{rng.integers(shops)}" if rng.random() > 0.1 else None,
                "kind": [None, "a", "b", "c"][int(rng.integers(0, 4))],
                "amount": round(float(rng.normal() * 100), 2) if rng.random() > 0.1 else None,
                "age": float(rng.integers(0, 9)),
                "fraud": fraud,
                "reported": float(moment + int(rng.integers(0, DAY))) if fraud is not None else None,
            }
        )
    return rows


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    kinds: dict[str, Any] = dict.fromkeys(("id", "card", "shop", "kind", "note", "what"), pl.String)
    kinds |= dict.fromkeys(("time", "amount", "age", "reported"), pl.Float64) | {"fraud": pl.Int64}
    return pl.DataFrame(list(rows), schema=kinds)


def request(row: Row) -> Row:
    """What a client sends: what is known at the time."""
    return {name: row[name] for name in row if name not in ("fraud", "reported")}


@dataclass(frozen=True)
class Case:
    folder: Path
    rows: list[Row]
    bundle: Bundle

    @property
    def path(self) -> Path:
        return self.folder / "bundle"

    @property
    def log(self) -> Path:
        return self.folder / "log.parquet"

    def scorer(self, **changes: Any) -> Scorer:
        """A scorer; changes: tables of the market to replace."""
        if not changes:
            return Scorer(self.bundle)
        market = Market.from_dict({**self.bundle.market.to_dict(), **changes})
        return Scorer(replace(self.bundle, market=market))

    def offline(self, rows: Sequence[Row], scorer: Scorer | None = None) -> dict[str, float]:
        found = (scorer or self.scorer()).score(frame(rows))
        return dict(zip(found["id"].to_list(), found["raw_score"].to_list(), strict=True))


def make_case(
    folder: Path,
    market: dict[str, Any] = MARKET,
    n: int = 1500,
    rows: list[Row] | None = None,
    joining: Joining = ALONE["network"],
) -> Case:
    """joining: with trees, for trees too; they are trained on the outcomes of the log, which are random."""
    rows = random_rows(n) if rows is None else rows
    frame(rows).write_parquet(folder / "log.parquet")
    store = prepare(Market.from_dict(market), [folder / "log.parquet"], folder / "store")
    torch.manual_seed(0)
    network = TSANetwork(
        network_settings(store, "default", {"width": 16, "n_order_layers": 1, "n_feature_layers": 1})
    ).eval()
    with torch.no_grad():  # louder than a network begins, so that scores differ by what is in histories
        for weight in network.parameters():
            weight.mul_(1.5)
    bundle = Bundle(market=store.market, encoder=store.encoder, config=network.config, network=network, training={})
    if "trees" in joining.parts:
        learned = store.labelled("train")
        trees = fit_trees(store, learned, learned, seed=0, threads=1, max_rounds=60)  # of what they have learned: many
        bundle = replace(bundle, trees=trees, joining=joining)
    scores = Scorer(bundle).score(folder / "log.parquet")["raw_score"].to_numpy()
    # outcomes that rise with the score: to those of the log, random weights say nothing
    n = len(scores)
    labels = (np.random.default_rng(1).random(n) < 0.6 * (scores.argsort().argsort() / n) ** 2).astype(np.int8)
    bundle = replace(bundle, calibration=Calibration.fit(scores=scores, labels=labels))
    bundle.save(folder / "bundle")
    return Case(folder, rows, bundle)


def answer_of(found: ScoreResult | RuleViolation) -> ScoreResult:
    assert isinstance(found, ScoreResult), found
    return found


def in_time(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Payments in order, each with those whose outcome has become known since the one before."""
    waiting: list[tuple[float, int, Row]] = []
    for at, row in enumerate(rows):
        told = []
        while waiting and waiting[0][0] <= row["time"]:
            told.append(heapq.heappop(waiting)[2])
        yield row, told
        if row["fraud"] is not None:
            heapq.heappush(waiting, (row["reported"], at, row))


def replay(scoring_service: ScoringService, rows: Sequence[Row]) -> dict[str, float]:
    """Raw scores of a log whose payments come one at a time, outcomes when they become known."""
    scores = {}
    for row, told in in_time(rows):
        for earlier in told:
            assert scoring_service.record_outcome(earlier["id"], bool(earlier["fraud"]), earlier["reported"])
        score = answer_of(scoring_service.score([request(row)])[0]).raw_score
        if score is not None:
            scores[row["id"]] = score
    return scores


def assert_same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() <= expected.keys()
    worst = max(found, key=lambda id_: abs(found[id_] - expected[id_]))
    assert math.isclose(found[worst], expected[worst], abs_tol=1e-6, rel_tol=0), (worst, found[worst], expected[worst])


def assert_nothing_lost(store: HistoryStore, rows: Sequence[Row], acknowledged: Collection[str]) -> None:
    """What was acknowledged of `rows`, in time order, is recorded, and stands once in each of its histories."""
    records = {place[1]: Record.unpack(stored.data) for place, stored in store.scan(PAYMENTS)}
    assert set(acknowledged) <= records.keys()
    for name in ("card", "shop"):
        held: dict[str, list[str]] = {}
        for (_, key), stored in store.scan(name):
            held[key] = list(HistoryBlock.unpack(stored.data).events.ids)
            assert max(Counter(held[key]).values()) == 1, "twice"
        length = {"card": 6, "shop": 9}[name]
        for key, ids in held.items():
            own = [row["id"] for row in rows if row[name] == key and row["id"] in records]
            assert ids[-(length - 1) :] == own[-(length - 1) :]
            assert set(acknowledged) & set(own[-(length - 1) :]) <= set(ids)


def port_with_a_bus() -> int:
    """A free port whose cluster bus, 10,000 above, is one as well."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            if (port := int(found.getsockname()[1])) < 55_000:
                return port


class RedisServer:
    """A Redis that flushes each change to disk before it acknowledges it; killed and started again at will."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @staticmethod
    def installed() -> bool:
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "always", *self.options]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        import redis

        with redis.Redis(port=self.port) as client:
            for _ in range(400):
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    time.sleep(0.025)
        raise AssertionError("redis-server did not start")

    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.port)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def flush(self) -> None:
        import redis

        with redis.Redis(port=self.port) as client:
            client.flushall()
