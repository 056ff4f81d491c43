"""How far scores move when experts are chosen as the legacy system chooses them: at random, also in evaluation.

    python benchmarks/experts.py [BUNDLE LOG] [--draws 20]

With the policy "random" the legacy system keeps a payment's second expert with probability gate / 0.2, so one payment scores
differently twice. Here evaluation keeps it always, weighted by its gate. The payments of the log (at most 2,000, the last
ones) are scored so many times with the legacy system's draws, and once as here. Without a bundle, one of the legacy system's
form with two histories and five experts in each layer, but small, is trained for 3 epochs on 20,000 simulated payments.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import tsa
from tsa.inference.labelled_log import open_log
from tsa.inference.scorer import Scorer
from tsa.model.moe import SECOND_THRESHOLD, Top2Gate
from tsa.simulation import SimulationConfig, write_simulation
from tsa.training import TrainingConfig

MARKET = Path(__file__).parents[1] / "markets" / "demo.toml"
MOST = 2000


@contextmanager
def drawn() -> Iterator[None]:
    """Gates keep second experts at random, as the legacy system does."""

    def draw(_: Top2Gate, value: torch.Tensor) -> torch.Tensor:
        return (torch.rand_like(value) < value / SECOND_THRESHOLD).to(value.dtype)

    with patch.object(Top2Gate, "_keeps", draw):
        yield


def measure(bundle: Path, log: str, draws: int) -> None:
    scorer = Scorer.load(bundle)
    config = scorer.bundle.config
    if not config.n_experts or config.expert_policy != "random":
        raise SystemExit(f"{bundle} must have experts with the policy random, it has n_experts={config.n_experts}")
    torch.manual_seed(0)
    with open_log(scorer, [log]) as known:
        rows = known.payments[-MOST:]
        here = scorer.score_rows(known.store, rows).astype(np.float64)
        with drawn():
            there = np.stack([scorer.score_rows(known.store, rows) for _ in range(draws)]).astype(np.float64)
    again = np.abs(there[1:] - there[:-1])
    moved, of_mean = np.abs(there - here), np.abs(there.mean(0) - here)
    print(f"{len(rows):,} payments, {draws} draws, raw scores from {here.min():.4f} to {here.max():.4f}")
    for what, values in (
        ("from one draw of the legacy system's to the next", again),
        ("from the legacy system's draws to the score here", moved),
        (f"from the mean of the {draws} draws to the score here", of_mean),
    ):
        print(
            f"{what}: mean {values.mean():.5f}, 99 % below {np.quantile(values, 0.99):.5f}, largest {values.max():.5f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("log", nargs="?")
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.bundle is not None:
        measure(arguments.bundle, arguments.log, arguments.draws)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_simulation(SimulationConfig(payments=20_000, fraud_rate=0.03), folder / "log.parquet")
        market = tsa.Market.load(MARKET, ["history.0.length=12", "history.1.length=12"])
        store = tsa.prepare(market, [folder / "log.parquet"], folder / "store")
        config = TrainingConfig.make({"epochs": 3, "early_stopping": False, "importance_sampling_every": 0})
        model = {"n_experts": 5, "width": 32, "feedforward_width": 64, "n_order_layers": 2, "n_feature_layers": 2}
        tsa.train(store, folder / "run", preset="reference-two-history", training=config, model=model)
        measure(folder / "run" / "bundle", str(folder / "log.parquet"), arguments.draws)


if __name__ == "__main__":
    main()
