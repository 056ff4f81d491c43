"""Write thresholds.json and thresholds.html of a run: which payments to review, for machines and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsa.errors import ConfigError, DataError
from tsa.evaluation.daily_queue import Costs
from tsa.evaluation.report.json_values import to_plain
from tsa.evaluation.report.report import page
from tsa.evaluation.report.sections import card
from tsa.evaluation.report.svg import Axis, Series
from tsa.evaluation.thresholds import choose_thresholds
from tsa.evaluation.trained_run import TrainedRun, read_report
from tsa.files.writing import write_json, write_text

Dict = Mapping[str, Any]


def thresholds(
    run: TrainedRun | str | Path, costs: Costs, *, amount_column: str | None = None, replicates: int = 200
) -> dict[str, Any]:
    """Choose thresholds on the test range of an evaluated run; write `thresholds.json` and `thresholds.html` there.

    Each row also has the percentile and the probability of its threshold, if the bundle is calibrated for them.

    Args:
        run: The run, or the path of its folder.
        costs: Costs of reviews and missed frauds.
        amount_column: The column with the loss of a missed fraud; by default the market's amount.
        replicates: Bootstrap samples for the interval.

    Returns:
        The content of thresholds.json.

    Raises:
        ConfigError: If the run was not evaluated, there is nothing to choose by, or the market has no such column.
        DataError: If the column is not numeric.
    """
    run = run if isinstance(run, TrainedRun) else TrainedRun.open(run)
    scores = measured_scores(run)
    payments = run.payments(scores["raw_score"].cast(pl.Float64).to_numpy())
    if amount_column is not None:
        payments = replace(payments, amount=_amounts(run, amount_column))
    probability = scores["probability"].to_numpy() if "probability" in scores.columns else None
    result = choose_thresholds(payments, costs, probability=probability, replicates=replicates)
    for row in (*result["rows"], *([result["best"]] if result["best"] else [])):
        other_scores = run.scorer.with_calibration(np.array([row["threshold"]], np.float32))
        row.update({name: float(value[0]) for name, value in other_scores.items() if name != "raw_score"})
    result |= {
        "amount_column": amount_column or run.market.event.amount,
        "market": run.market.name,
        "entity": run.market.entity.name,
    }
    result["summary"] = plain(result)
    result["policy_summary"], result["keys_summary"] = plain_policy(result), plain_keys(result)
    write_json(run.path / "thresholds.json", to_plain(result))
    write_text(run.path / "thresholds.html", page("thresholds.html", view(to_plain(result))))
    return result


def measured_scores(run: TrainedRun) -> pl.DataFrame:
    """The test payments with their scores, as `tsa evaluate` wrote them."""
    path = run.path / "scores.parquet"
    if read_report(run.path)["model"].get("weights") != run.weights_hash or not path.is_file():
        raise ConfigError(f"{run.path} was trained again after it was evaluated; run: tsa evaluate {run.path}")
    return pl.read_parquet(path)


def _amounts(run: TrainedRun, column: str) -> Any:
    if column not in run.market.raw_columns:
        known = ", ".join(run.market.raw_columns)
        raise ConfigError(f"the amount column must be one that the market declares ({known}) (got {column!r})")
    values = run.store.columns([column])[column]
    if not values.dtype.is_numeric():
        raise DataError(f"the amount column must hold numbers (got {column!r} of type {values.dtype})")
    return values.cast(pl.Float64).to_numpy()[run.rows]


def plain(result: Dict) -> str:
    """One sentence on the best threshold and its savings."""
    best = result["best"]
    if result.get("frauds_with_amount") == 0 and result["frauds"]:
        return (
            f"No fraud of the test range has an amount above 0 (column {result['amount_column']}), and lower amounts count as "
            "no loss, so no review saves anything: write amounts as positive numbers, or give --cost-fraud."
        )
    if best is None:
        return "No threshold saves more than its reviews cost: review nothing, or make a review cheaper."
    daily = f"{best['reviewed_per_day']:,.1f} reviews per day"
    caught = f"{best['caught']:,} of {result['frauds']:,} frauds in {result['days']:,} days"
    sentence = f"Review payments with a raw score of at least {best['threshold']:.6g}: {daily} catch {caught}"
    if best["net"] is None:
        return f"{sentence}; the savings are not known without amounts or a cost of a missed fraud."
    spread = (
        "" if best.get("net_low") is None else f" (95 % interval {best['net_low']:,.0f} to {best['net_high']:,.0f})"
    )
    return f"{sentence}, save {best['saved']:,.0f} and cost {best['cost']:,.0f}: {best['net']:,.0f} net{spread}."


def plain_policy(result: Dict) -> str | None:
    """One sentence on the thresholds to review and to decline from; None if they were not asked for."""
    policy = result.get("policy")
    if policy is None:
        return None
    if policy["decline"] is None and policy["review"] is None:
        return "Declining and reviewing both cost more than they save."
    decline = (
        "Decline nothing" if policy["decline"] is None else f"Decline from a raw score of {policy['decline']:.6g} on"
    )
    review = "review nothing" if policy["review"] is None else f"review from {policy['review']:.6g} on"
    counts = f"{policy['declined']:,} declined, {policy['reviewed']:,} reviewed, {policy['caught']:,} frauds caught"
    return f"{decline} and {review}: {counts}, {policy['net']:,.0f} net."


def plain_keys(result: Dict) -> str | None:
    """One sentence on the cards or customers behind the payments; None without any."""
    chosen = result.get("policy") or result["best"]
    if chosen is None or "keys" not in chosen:
        return None
    keys, name = chosen["keys"], result.get("entity", "key")
    prevented = (
        f"{keys['frauds_prevented']:,} further frauds are prevented if a {name} is blocked from the day after its"
    )
    alarms = f"{keys['keys_with_false_alarm']:,} of {keys['keys']:,} have a false alarm"
    each = "" if keys["false_alarms_per_key"] is None else f" ({keys['false_alarms_per_key']:.3g} per {name})"
    caught = f"By {name}: {keys['keys_caught']:,} of {keys['keys_with_fraud']:,} with fraud are caught"
    return f"{caught}; {prevented} first catch; {alarms}{each}."


def view(result: Dict) -> dict[str, Any]:
    """The values that the page shows."""
    rows = [
        {**row, "best": result["best"] is not None and row["threshold"] == result["best"]["threshold"]}
        for row in result["rows"]
    ]
    return {
        "title": f"{result['market']}: thresholds for review",
        "result": result,
        "tone": "unclear" if result["best"] is None else "better",
        "rows": rows,
        "sentences": [sentence for sentence in (plain_policy(result), plain_keys(result)) if sentence],
        "has_keys": bool(rows) and "keys" in rows[0],
        "charts": [chart for chart in (_money(result), _detection(result["rows"], result["best"])) if chart],
    }


def _across(rows: Sequence[Dict]) -> Axis:
    highest = max(1.5, *(row["reviewed_per_day"] for row in rows))
    lowest = min([1.0, *(row["reviewed_per_day"] for row in rows if row["reviewed_per_day"] > 0)])
    return Axis(label="Reviews per day", low=lowest, high=highest, log=True)


def _money(result: Dict) -> dict[str, Any] | None:
    rows, best = result["rows"], result["best"]
    if not rows or rows[0]["net"] is None:
        return None
    x = [row["reviewed_per_day"] for row in rows]
    names = {"saved": "two", "net": "one"}
    lines = [Series(name=name, x=x, y=[row[name] for row in rows], style=s, dots=True) for name, s in names.items()]
    low = min(0.0, *(row["net"] for row in rows))
    high = max(1.0, *(row["saved"] for row in rows)) * 1.05
    if best is not None:
        lines.append(Series(name="best", x=[best["reviewed_per_day"]] * 2, y=[low, high], style="muted"))
    description = "Savings from reviews, and savings minus the cost of reviews (net), over reviews per day."
    return card("money", "Saved and net", description, _across(rows), Axis(label="Money", low=low, high=high), lines)


def _detection(rows: Sequence[Dict], best: Dict | None) -> dict[str, Any] | None:
    known = [row for row in rows if row["recall"] is not None and row["precision"] is not None]
    if not known:
        return None
    x = [row["reviewed_per_day"] for row in known]
    names = {"recall": "one", "precision": "two"}
    lines = [Series(name=name, x=x, y=[row[name] for row in known], style=s, dots=True) for name, s in names.items()]
    if best is not None:
        lines.append(Series(name="best", x=[best["reviewed_per_day"]] * 2, y=[0, 1], style="muted"))
    description = (
        "Share of the frauds that are caught, and share of frauds among reviewed payments, over reviews per day."
    )
    return card(
        "recall-precision",
        "Recall and precision",
        description,
        _across(known),
        Axis(label="Share", percent=True),
        lines,
    )
