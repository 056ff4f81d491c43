"""How often the intervals of expected performance hold what is measured later: python benchmarks/expected_coverage.py

Payments whose frauds come with a known probability, in six windows of 1,000 payments and about 45 frauds, repeated. The
probabilities are the true ones, or fitted on a number of other frauds. Outcomes are independent, or those of a card (five
payments a window) depend on each other: the log odds of all of them are higher or lower by the same normal number, with a
standard deviation of 2. The intervals leave out both errors of the fit and dependence, or hold them. Prints the share of
values within their intervals of 95 %.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.special import expit, logit

from tsa.calibration.calibration import Calibration
from tsa.monitoring.expected import METRICS, expected
from tsa.monitoring.windows import Windows
from tsa.times import DAY_SECONDS

WINDOWS, SIZE, PER_CARD = 6, 1000, 5
DEPENDENT = 2.0
WEEK = 7 * DAY_SECONDS


def payments(n: int, generator: np.random.Generator, spread: float) -> tuple[Any, Any, Any]:
    """Probabilities (n,), the outcomes drawn from them, and the codes of their cards."""
    odds = logit(np.clip(generator.beta(0.3, 6, n), 1e-4, 0.5)) - spread
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    probability = expit(odds[:, None] + spread * nodes) @ (weights / weights.sum())
    codes = generator.integers(0, SIZE // PER_CARD, n) + SIZE // PER_CARD * (np.arange(n) // SIZE)
    shift = generator.normal(0, spread, int(codes.max()) + 1)[codes]
    return probability, (generator.random(n) < expit(odds + shift)).astype(np.int8), codes


def held(seed: int, fitted_on: int | None, spread: float, *, with_errors: bool) -> list[list[bool]]:
    """For each window, whether each metric was within its interval."""
    generator = np.random.default_rng(seed)
    raw, label, codes = payments(WINDOWS * SIZE, generator, spread)
    probability, frauds = raw, None
    if fitted_on is not None:
        scores, labels, _ = payments(int(fitted_on / raw.mean()), generator, spread)
        fitted = Calibration.fit(scores=scores, labels=labels)
        assert fitted.probability is not None
        probability, frauds = fitted.probability(raw), int(labels.sum())
    n = len(raw)
    seen: Any = SimpleNamespace(
        scores={"probability": probability},
        raw=raw,
        rows=np.arange(n),
        time_seconds=np.arange(n) * WINDOWS * WEEK / n,
        store=SimpleNamespace(label=label),
        matured=lambda as_of: np.ones(n, bool),
        key_codes=[codes] if with_errors else [],
    )
    windows = Windows.of(0.0, WINDOWS * WEEK, "week")
    settings: dict[str, Any] = {"threshold": 0.1, "as_of": 0.0, "min_frauds": 10}
    result = expected(seen, windows, calibrated_on=frauds if with_errors else None, **settings)
    checks = [window["check"] for window in result["windows"] if window["check"]]
    return [[check[name]["within"] for name in METRICS] for check in checks if set(METRICS) <= set(check)]


def main() -> None:
    """Print a row for each kind of probability."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=100)
    repeats = parser.parse_args().repeats
    print(
        f"{'outcomes':<13}{'probabilities':<22}{'intervals':<12}"
        + "".join(f"{name:>19}" for name in METRICS)
        + f"{'all':>8}"
    )
    for spread in (0.0, DEPENDENT):
        for fitted_on in (None, 120, 500):
            for with_errors in (False, True):
                made = [
                    one for seed in range(repeats) for one in held(seed, fitted_on, spread, with_errors=with_errors)
                ]
                share = np.mean(made, axis=0)
                name = f"{'dependent' if spread else 'independent':<13}"
                name += f"{'true' if fitted_on is None else f'fitted on {fitted_on} frauds':<22}"
                name += f"{'hold both' if with_errors else 'hold none':<12}"
                print(name + "".join(f"{value:>19.3f}" for value in share) + f"{share.mean():>8.3f}", flush=True)


if __name__ == "__main__":
    main()
