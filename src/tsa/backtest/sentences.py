"""What a backtest says in words: the same sentences at the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsa.backtest.durations import duration_text
from tsa.backtest.settings import MODEL, NAMES, REFIT
from tsa.evaluation.report.formatting import signed
from tsa.text import plural

Dict = Mapping[str, Any]


def sentences_of(result: Dict) -> list[str]:
    """The conclusions of a backtest (the content of backtest.json), each one or two sentences."""
    summary = result["summary"]
    lines = [_level(summary), *(_against(summary, name) for name in summary["differences"]), _calibrated(summary)]
    lines += [_aged(summary), _money(result), _started(result), _skipped(result)]
    return [line for line in lines if line]


def _level(summary: Dict) -> str:
    metrics = summary["models"][MODEL]["metrics"]
    parts = []
    for name, title in (("average_precision", "average precision"), ("roc_auc", "ROC AUC")):
        one = metrics[name]
        if one["mean"] is not None:
            parts.append(f"{title} {one['mean']:.3f} on average ({_spread(one)})")
    folds = plural(summary["folds"], "fold")
    return f"{NAMES[MODEL]} reaches {' and '.join(parts)} in {folds}." if parts else f"No metric is known in {folds}."


def _spread(one: Dict) -> str:
    deviation = "" if one["deviation"] is None else f"standard deviation {one['deviation']:.3f}, "
    return f"{deviation}lowest {one['lowest']:.3f}, highest {one['highest']:.3f}"


def _against(summary: Dict, name: str) -> str:
    one = summary["differences"][name]["average_precision"]
    if one["mean"] is None:
        return ""
    if name == REFIT:
        return _refitting(one)
    deviation = "" if one["deviation"] is None else f", standard deviation {one['deviation']:.3f}"
    text = (
        f"Against {NAMES[name]}: average precision {signed(one['mean'])} on average{deviation}; higher in {one['higher']} of "
        f"{plural(one['folds'], 'fold')}, clearly better in {one['better']} and clearly worse in {one['worse']}"
    )
    return f"{text} (by 95 % intervals)."


def _refitting(one: Dict) -> str:
    """What refitting brought: `one` is the model minus the refitted one."""
    deviation = "" if one["deviation"] is None else f", standard deviation {one['deviation']:.3f}"
    lower = one["folds"] - one["higher"]
    return (
        f"Refitting on all known outcomes changed average precision by {signed(-one['mean'])} on average{deviation}; it was not "
        f"lower in {lower} of {plural(one['folds'], 'fold')}, clearly higher in {one['worse']} and clearly lower in "
        f"{one['better']} (by 95 % intervals)."
    )


def _calibrated(summary: Dict) -> str:
    one = summary["models"][MODEL]["calibration"]["ratio"]
    if one["mean"] is None:
        return ""
    return (
        f"Probabilities, fitted before each test range, expected {one['mean']:.2f} times the frauds that came "
        f"(lowest {one['lowest']:.2f}, highest {one['highest']:.2f})."
    )


def _aged(summary: Dict) -> str:
    rows = [row for row in summary["models"][MODEL]["ages"] if row["age_seconds"] > 0]
    known = [row for row in rows if row["average_precision"]["difference"] is not None]
    if not known:
        return ""
    row = known[-1]
    one = row["average_precision"]
    return (
        f"A model that is {duration_text(row['age_seconds'])} old when the test range begins has an average precision of "
        f"{one['aged']:.3f}, a new one {one['new']:.3f} on the same payments (difference {signed(one['difference'])}, "
        f"{plural(one['test_ranges'], 'test range')})."
    )


def _money(result: Dict) -> str:
    summary = result["summary"]
    parts = []
    for name, model in summary["models"].items():
        money = model["money"]
        if money is not None and money["net"] is not None:
            best = f", of at most {money['hindsight_net']:,.0f} had outcomes been known"
            parts.append(
                f"{NAMES[name]} saves {money['saved']:,.0f} for {money['cost']:,.0f}: {money['net']:,.0f} net{best}"
            )
    if not parts:
        return ""
    review = result["settings"]["costs"]["review"]
    return f"With thresholds chosen before each test range, at {review:g} a review, {'; '.join(parts)}."


def _started(result: Dict) -> str:
    """Which networks started from the weights of an earlier fold."""
    starts = [fold["training"]["warm_start"] for fold in result["folds"] if "warm_start" in fold.get("training", {})]
    if not starts:
        return ""
    taken = sum("from" in start for start in starts)
    text = f"{taken} of {plural(len(starts), 'network')} started from the weights of the fold before; trees never do."
    if not (fresh := [start["fresh"] for start in starts[1:] if "fresh" in start]):
        return text
    return f"{text} {plural(len(fresh), 'network')} after the first did not, because {fresh[0]}."


def _skipped(result: Dict) -> str:
    left_out = [fold for fold in result["folds"] if "skipped" in fold]
    if not left_out:
        return ""
    return f"{plural(len(left_out), 'fold')} left out; the first, {left_out[0]['name']}: {left_out[0]['skipped']}"
