"""docs/about/benchmarks.md, and the table in README.md, from the results of `public.py`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from public_catalogue import SETS

WIDTH = 100
NAMES = {"model": "TSA", "network": "its network alone", "trees": "its trees alone", "baseline": "LightGBM baseline"}
HEAD = """# Public benchmarks

This page is written by `benchmarks/public.py`, which runs the same protocol on sets that anyone can get, with default
settings: `--how` says where each set is and how its file is made. Test ranges are later than all training rows, and outcomes
are seen only once they are known. TSA is the product's model, whose parts are chosen on payments that neither part learned
from; the baseline is the LightGBM of `tsa compare`, with aggregates over the full log. Values are average precision / ROC
AUC, with 95 % bootstrap intervals of the payments in brackets."""


def page_of(results: Mapping[str, Any]) -> str:
    """The page."""
    parts = [_wrapped(HEAD)]
    parts += [_section(name, result) for name, result in results.items()]
    if missing := [name for name in SETS if name not in results]:
        parts.append(
            _wrapped(f"## Not measured\n\nWith the model of today, no result is recorded for: {', '.join(missing)}.")
        )
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        one
        if one.startswith("#")
        else "\n".join(textwrap.wrap(one, WIDTH, break_long_words=False, break_on_hyphens=False))
        for one in paragraphs
    )


def _section(name: str, result: Mapping[str, Any]) -> str:
    one, runs, made = SETS[name], result["runs"], result["environment"]
    first = runs[0]
    settings = f", {' '.join(made['settings'])}" if made["settings"] else ""
    threads = "1 thread" if made["threads"] == 1 else f"{made['threads']} threads"
    about = (
        f"{one.question} {first['payments']:,} test rows, {first['frauds']:,} of them positive. Made on "
        f"{made['machine']} with {threads} and PyTorch {made['torch']}{settings}. Source: {one.source}"
    )
    parts = [f"## {name}", _wrapped(about), _table(runs), _wrapped(_verdict(runs))]
    if one.published:
        rows = "\n".join(f"| {who} | {what} |" for who, what in one.published.items())
        parts.append(f"| published | |\n|---|---|\n{rows}")
    return "\n\n".join(parts)


def _table(runs: Sequence[Mapping[str, Any]]) -> str:
    columns = [name for name in NAMES if name in runs[0]["columns"]]
    lines = [f"| | {' | '.join(NAMES[name] for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for run in runs:
        cells = (_cell(run["columns"][name]) for name in columns)
        lines.append(f"| seed {run['seed']} ({' and '.join(run['parts'])}) | {' | '.join(cells)} |")
    if len(runs) > 1:
        lines.append(f"| mean ± standard deviation | {' | '.join(_spread(runs, name) for name in columns)} |")
    return "\n".join(lines)


def _cell(column: Mapping[str, Any]) -> str:
    return " / ".join(_value(column[metric]) for metric in ("average_precision", "roc_auc"))


def _value(metric: Mapping[str, Any]) -> str:
    if metric["low"] is None:
        return _short(metric["value"])
    return f"{_short(metric['value'])} [{_short(metric['low'])}, {_short(metric['high'])}]"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.3f}"


def _spread(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    cells = []
    for metric in ("average_precision", "roc_auc"):
        values = [run["columns"][name][metric]["value"] for run in runs]
        cells.append(f"{_short(float(np.mean(values)))} ± {_short(float(np.std(values, ddof=1)))}")
    return " / ".join(cells)


def _verdict(runs: Sequence[Mapping[str, Any]]) -> str:
    """What the interval of the difference to the baseline says, seed by seed."""
    says = {
        "a better": "TSA is better than the baseline",
        "b better": "The baseline is better than TSA",
        "no clear difference": "There is no clear difference to the baseline",
    }
    sentences = []
    for run in runs:
        found = run["differences"]["baseline"]
        interval = f"{found['low']:+.3f} to {found['high']:+.3f}"
        sentences.append(
            f"{says[found['verdict']]} by average precision with seed {run['seed']}: {found['difference']:+.3f}, {interval}."
        )
    return " ".join(sentences)


BEGIN, END = "<!-- results: written by benchmarks/public.py -->", "<!-- end of results -->"


def with_results(readme: str, results: Mapping[str, Any]) -> str:
    """README.md with the results of the first seed of each set in its table."""
    says = {"a better": "TSA", "b better": "LightGBM", "no clear difference": "no clear difference"}
    lines = ["| | TSA | LightGBM | better by average precision |", "|---|---|---|---|"]
    for name, result in results.items():
        run = result["runs"][0]
        cells = (_cell(run["columns"][column]) for column in ("model", "baseline"))
        lines.append(f"| {name} | {' | '.join(cells)} | {says[run['differences']['baseline']['verdict']]} |")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, "", *lines, "", END + after])
