"""Compare champion and challenger by what they answered and what became of it.

Keys are drawn, not payments, in the bootstrap for intervals: the split is by key, and the payments of a customer are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from tsa.errors import ConfigError
from tsa.evaluation.metrics.bootstrap import MINIMUM_EVENTS, check_settings, interval, poisson_one
from tsa.evaluation.metrics.psi import psi
from tsa.serving.decisions.read_decisions import answered
from tsa.serving.results import CHALLENGER, CHAMPION

CONFIDENCE = 0.95
QUANTILES = (0.5, 0.9, 0.99)
Floats = NDArray[np.float64]

MEASURES = {
    "mean raw score": ("score", "all"),
    "share stopped": ("stopped", "all"),
    "fraud rate of known outcomes": ("fraud", "known"),
    "share of frauds stopped": ("fraud_stopped", "fraud"),
    "share of genuine payments stopped": ("genuine_stopped", "genuine"),
    "fraud let through, money per payment": ("money_lost", "all"),
    "fraud stopped, money per payment": ("money_saved", "all"),
}
"""Each is the sum of one column over the sum of another."""
MONEY = ("money_lost", "money_saved")
COUNTED = {"money_lost": "fraud_let_through", "money_saved": "fraud_stopped", "score": "all"}
"""What has to occur often enough for an interval, where it is not the measure's own first column."""


def compare_arms(
    folder: Path,
    *,
    since: float | None = None,
    until: float | None = None,
    amount: str | None = None,
    accept: str = "accept",
    split_by: str | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the answers of both arms.

    Args:
        folder: The folder of the log of decisions.
        since, until: Only answers of [since, until), in epoch seconds.
        amount: The column with the money at stake; None: money is not compared.
        accept: The decision that lets a payment through; all others stop it. No decision lets it through.
        split_by: The history whose key the split used; None: the first that a payment has.
        replicates: Bootstrap samples for the intervals.
        seed: Of the bootstrap.

    Returns:
        `arms`: counts and scores by arm. `measures`: for each, both values, the difference (challenger - champion), its
        interval, and `clear`: whether the interval excludes 0. `psi` of the raw scores.

    Raises:
        ConfigError: An arm has no answers, or `amount` is not a recorded column.
    """
    check_settings(replicates=replicates, confidence=CONFIDENCE)
    rows = answered(folder, since=since, until=until).filter(pl.col("raw_score").is_not_null() & ~pl.col("degraded"))
    rows = _with_columns(rows, amount, accept, split_by)
    arms = {arm: rows.filter(pl.col("arm") == arm) for arm in (CHAMPION, CHALLENGER)}
    if empty := [arm for arm, own in arms.items() if not len(own)]:
        what = f"the log of decisions has no answers of the {empty[0]} in this range"
        raise ConfigError(f"{what}: serve with --challenger, or change --from and --to")
    generator = np.random.default_rng(seed)
    sums = {arm: _ClusterSums(own, generator, replicates) for arm, own in arms.items()}
    measures = {
        name: _difference(sums, *columns)
        for name, columns in MEASURES.items()
        if amount is not None or columns[0] not in MONEY
    }
    scores = {arm: own["raw_score"].to_numpy() for arm, own in arms.items()}
    return {
        "arms": {arm: _summary(own) for arm, own in arms.items()},
        "measures": measures,
        "psi": psi(scores[CHAMPION], scores[CHALLENGER]),
    }


def _with_columns(rows: pl.DataFrame, amount: str | None, accept: str, split_by: str | None) -> pl.DataFrame:
    """The columns that measures sum up, as numbers, and `cluster`, the key that the split used."""
    keys = pl.col("keys").list.eval(
        pl.element() if split_by is None else pl.element().filter(pl.element().struct.field("history") == split_by)
    )
    money: pl.Expr | pl.Series = pl.lit(0.0)
    if amount is not None:
        spelled = f"{orjson.dumps(amount).decode()}:"
        if not rows["values"].str.contains(spelled, literal=True).any():
            raise ConfigError(f"--amount must be a recorded column (got {amount!r})")
        money = pl.Series(
            [_amount(orjson.loads(values).get(amount)) for values in rows["values"].to_list()], dtype=pl.Float64
        )
    stopped, known = pl.col("decision").fill_null(accept) != accept, pl.col("fraud").is_not_null()
    fraud, genuine = pl.col("fraud").fill_null(False), known & ~pl.col("fraud").fill_null(True)
    own = keys.list.first().struct.field("key")
    return rows.with_columns(
        cluster=pl.coalesce(own, pl.col("id"), pl.int_range(pl.len()).cast(pl.String)),
        score=pl.col("raw_score"),
        all=pl.lit(1.0),
        stopped=stopped.cast(pl.Float64),
        known=known.cast(pl.Float64),
        fraud=fraud.cast(pl.Float64),
        genuine=genuine.cast(pl.Float64),
        fraud_stopped=(fraud & stopped).cast(pl.Float64),
        fraud_let_through=(fraud & ~stopped).cast(pl.Float64),
        genuine_stopped=(genuine & stopped).cast(pl.Float64),
        money_lost=pl.when(fraud & ~stopped).then(money).otherwise(0.0),
        money_saved=pl.when(fraud & stopped).then(money).otherwise(0.0),
        is_fraud=pl.col("fraud"),
    )


def _amount(value: object) -> float:
    return max(float(value), 0.0) if isinstance(value, int | float) else 0.0


class _ClusterSums:
    """Sums of columns of one arm, for the payments as they are and for bootstrap samples of the keys."""

    def __init__(self, rows: pl.DataFrame, generator: np.random.Generator, replicates: int) -> None:
        names = sorted({name for pair in MEASURES.values() for name in pair} | set(COUNTED.values()))
        by_key = rows.group_by("cluster", maintain_order=True).agg(pl.col(names).sum())
        sums = by_key.select(names).to_numpy()
        self.total = dict(zip(names, sums.sum(axis=0), strict=True))
        drawn = np.zeros((replicates, len(names)))
        for at in range(replicates):
            drawn[at] = poisson_one(generator, len(sums)).astype(np.float64) @ sums
        self.samples = {name: drawn[:, column] for column, name in enumerate(names)}


def _difference(sums: Mapping[str, _ClusterSums], top: str, bottom: str) -> dict[str, Any]:
    values = {arm: _ratio(own.total[top], own.total[bottom]) for arm, own in sums.items()}
    champion, challenger = values[CHAMPION], values[CHALLENGER]
    result: dict[str, Any] = {**values, "difference": None, "low": None, "high": None, "clear": False, "reason": None}
    if champion is None or challenger is None:
        return {**result, "reason": f"no payments to divide by ({bottom})"}
    result["difference"] = challenger - champion
    events = min(own.total[COUNTED.get(top, top)] for own in sums.values())
    if events < MINIMUM_EVENTS:
        return {**result, "reason": f"an arm has only {events:.0f}, no interval below {MINIMUM_EVENTS}"}
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = {arm: own.samples[top] / own.samples[bottom] for arm, own in sums.items()}
    samples = shares[CHALLENGER] - shares[CHAMPION]
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return {**result, "reason": "no replicates"}
    low, high = interval(samples, CONFIDENCE, challenger - champion)
    return {**result, "low": low, "high": high, "clear": low > 0 or high < 0}


def _ratio(top: float, bottom: float) -> float | None:
    return float(top / bottom) if bottom else None


def _summary(rows: pl.DataFrame) -> dict[str, Any]:
    counts = rows.group_by(pl.col("decision").fill_null("(none)")).len().sort("decision")
    return {
        "payments": len(rows),
        "keys": rows["cluster"].n_unique(),
        "versions": sorted(rows["version"].drop_nulls().unique()),
        "raw_score": {f"{at:g}": rows["raw_score"].quantile(at) for at in QUANTILES},
        "decisions": dict(counts.iter_rows()),
        "outcomes": int(rows["known"].sum()),
        "frauds": int(rows["is_fraud"].fill_null(False).sum()),
    }


def sentence(name: str, values: Mapping[str, Any]) -> str:
    """One line on a measure."""
    shown = [values[arm] for arm in (CHAMPION, CHALLENGER)]
    if any(value is None for value in shown):
        return f"{name}: undefined ({values['reason']})"
    line = f"{name}: champion {shown[0]:.4g}, challenger {shown[1]:.4g}, difference {values['difference']:+.4g}"
    if values["low"] is None:
        return f"{line} (no interval: {values['reason']})"
    verdict = "a clear difference" if values["clear"] else "no clear difference"
    return f"{line} [{values['low']:+.4g}, {values['high']:+.4g}]: {verdict}"
