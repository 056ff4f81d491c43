"""Write docs/reference/files.md, the files of a run, from a finished run: python docs/make_files.py demo/run

What the files hold is read from the run; what it means is written here. A field without a meaning is an error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsa.data.store.manifest import ARRAYS, INDEX_ARRAYS, ROLE_ARRAY

PAGE = Path(__file__).parent / "reference" / "files.md"
Meanings = Mapping[str, str]
HEAD = """# Files

Written by docs/make_files.py from a finished run. It is for programs that read these files. JSON is
UTF-8 without comments; times are ISO 8601 in UTC unless a name ends in `_seconds` (seconds since
1970). New fields may appear in any version: ignore those that you do not know. Files are written
under another name first, so a file that is there is complete.

Input files are described in [input files](input-files.md), markets in [settings](settings.md) and
[market files](market-file.md), quarantine files in [checks and quarantine](checks.md), the log of
decisions in [its own page](../how-to/decisions.md).
"""
FOOT = """## Other folders

| Folder | Files |
|---|---|
| of `tsa backtest` | `plan.json`, `store/`, `folds/N/` with `fold.json`, `bundle/`, `scores.parquet`; `backtest.json`, `.html` |
| of `tsa evaluate BUNDLE --log` | `report.json`, `report.html`, `scores.parquet`, as of a run |
| of `tsa monitor` | `monitor.json`, `monitor.html`, and `reference.json`, what later logs are compared with |
| of `tsa tune` | `search.json` and a run for each trial |
| of `FraudClassifier.save` | `model.json`, `report.json`, `bundle/` and, unless it was left out, `history.parquet` |

`thresholds.json`, of `tsa thresholds`, has the table of [scores and
thresholds](../concepts/scores.md). Side files: `run.log` and other `.log` files hold what the
command said; `curves.png` and `tensorboard/` are curves of the training.
"""
SCORES = {
    "id": "the payment's id",
    "time": "its time",
    "label": "1 fraud, 0 genuine, null not known",
    "raw_score": "the order of risk",
}
ROWS_READ = {
    "files": "the files that were read",
    "rows_read": "rows in them",
    "rows_kept": "payments that were used",
    "rows_excluded": "rows that the market excludes",
    "rows_replaced": "rows that a later row with the same id replaced",
    "rows_quarantined": "rows that broke a rule",
    "by_rule": "those by rule",
    "frauds_quarantined": "known frauds among them",
    "frauds_by_rule": "those by rule",
    "labels": "number of known frauds, genuine payments, and unknown outcomes",
    "first_time": "time of the first payment",
    "last_time": "time of the last payment",
    "null_rates": "by column the share of missing values",
    "unknown_rates": "by feature the share of values that the encoder has no row for",
    "known_too_late": "by range, outcomes that became known only after the test range began",
    "notes": "what looks suspicious: kind, column, text",
}
TRAINED = {
    "training": "the settings of the training",
    "model": "the settings of the network",
    "preset": "the preset that they began with",
    "rows": "by range the payments and frauds learned from",
    "sampling_rate_genuine": "share of genuine payments that each epoch drew",
    "market_fingerprint": "sha256 of the market",
    "adapted": "settings that were changed to fit the data, and why",
    "best_epoch": "the epoch that gave the weights",
    "epochs": "by epoch the measures, as in metrics.jsonl",
}
VALIDATED = ("average_precision", "roc_auc", "loss", "accuracy", "precision", "recall", "f1")
FILES: Mapping[str, tuple[str, Meanings]] = {
    "run.json": (
        "What was trained, on what. It makes a folder a run.",
        {
            **TRAINED,
            "store": "the folder of the store, from the run's folder",
            "store_manifest": "sha256 of its manifest",
            "market": "the market, as in a market file",
            "store_content": "the manifest of the store",
            "environment": "versions, machine and threads",
            "started": "when the training began",
            "finished": "when it ended; missing while it runs",
        },
    ),
    "metrics.jsonl": (
        "One line for each epoch.",
        {
            "epoch": "counted from 1",
            "loss": "mean loss of the epoch",
            "gradient_norm": "mean norm of the gradients",
            "learning_rate": "at the end of the epoch",
            "payments_per_second": "speed of the training",
            "padding_share": "share of places in histories that are empty",
            "waiting_share": "share of the time that the training waited for data",
            "checkpoint_seconds": "time for writing checkpoints",
            "memory_bytes": "highest memory of the process, or of the GPU",
            "seconds": "duration of the epoch",
            **{f"validation_{name}": "on the validation range" for name in VALIDATED},
        },
    ),
    "report.json": (
        "What `report.html` shows.",
        {
            "title": "heading of the report",
            "created": "when it was written",
            "market": "the market and its fingerprint",
            "data": "what was read, as data_report.json",
            "model": "number of parameters, settings, sha256 of the weights",
            "training": "epochs, and what the training changed",
            "evaluation": "metrics on the test range with intervals, curves, segments",
            "comparison": "the same of LightGBM, and the differences, as comparison.json",
            "calibration": "whether probabilities are right, before and after",
            "reasons": "explanations of the riskiest payments",
            "parts": "what network and trees reach alone and together",
            "history_weights": "how much the network weighs each history",
            "environment": "versions, machine and threads",
        },
    ),
    "comparison.json": (
        "The comparison with LightGBM.",
        {
            "model_name": "its name",
            "note": "how it was trained, in a sentence",
            "params": "its parameters",
            "evaluation": "its metrics on the test range",
            "difference": "TSA (a) minus LightGBM (b) by metric, with interval",
            "validation": "the same of average precision on the validation range",
            "summary": "the result in a sentence",
            "features": "its features by importance",
            "seconds": "duration of its training",
            "weights": "sha256 of the weights that it was compared with",
        },
    ),
    "scores.parquet": (
        "The test range.",
        {
            **{name: SCORES[name] for name in ("id", "label", "raw_score")},
            "percentile": "share of calibration payments with a lower score, if calibrated",
            "probability": "probability of fraud, if calibrated",
        },
    ),
    "validation_scores.parquet": ("The validation range.", SCORES),
    "calibration_scores.parquet": ("The calibration range.", SCORES),
    "bundle/manifest.json": (
        "What makes a folder a bundle. [Bundles](bundle.md) lists the other files and what protects them.",
        {
            "version": "of the format",
            "files": "by name the size and sha256",
            "market_fingerprint": "sha256 of the market",
            "torch": "version of PyTorch that wrote the weights",
            "sha256": "of this file without this field",
        },
    ),
    "bundle/training.json": (
        "How the model was trained.",
        {**TRAINED, "fixed_values": "by history the features that never change within a key: no reason names them"},
    ),
    "bundle/data.json": (
        "What was read, as in the store's data_report.json, with file names only.",
        {**ROWS_READ, "splits": "by range its payments, frauds, first and last time"},
    ),
    "bundle/calibration.json": (
        "Maps from raw scores. Null, with the reason, where they could not be fitted.",
        {
            "version": "of the format",
            "counts": "payments, known outcomes and frauds that were used",
            "percentile": "scores in ascending order, and the percentile of each",
            "probability": "the method and what it needs: for a B-spline knots, coefficients and degree",
            "reasons": "why a map is missing",
        },
    ),
    "bundle/parts.json": (
        "How network and trees are joined, if there are trees.",
        {
            "version": "of the format",
            "joining": "log odds = intercept + network × its log odds + trees × their log odds",
            "choice": "what was measured to decide which parts count",
            "trees": "the columns that the trees read, in order",
        },
    ),
    "bundle/encoder.json": (
        "How values become numbers, fitted on training rows.",
        {
            "version": "of the format",
            "market": "name and fingerprint",
            "categorical": "by feature its known values and the row of the first in the table of vectors",
            "calendar": "the same of hours and days",
            "numerical": "by number its scale",
            "engineered": "the same of numbers that have no history",
        },
    ),
    "bundle/metrics.json": (
        "Metrics of the test range, as in report.json.",
        {"evaluation": "with intervals, by segment", "comparison": "with LightGBM", "calibration": "of probabilities"},
    ),
    "store/manifest.json": (
        "What makes a folder a store.",
        {
            "kind": "what the folder is: tsa event store",
            "version": "of the format",
            "n_events": "payments in the store, in order of time",
            "market": "name and fingerprint",
            "encoder": "fingerprint of its market, and rows of the table of vectors",
            "columns": "names of the columns of the arrays",
            "histories": "names of the histories",
            "splits": "by range the first row, the row after the last, and its times",
            "files": "by name the size and sha256",
        },
    ),
    "store/data_report.json": ("What was read, and what became of it.", ROWS_READ),
}
OPTIONAL: Mapping[str, Mapping[str, str]] = {
    "report.json": dict.fromkeys(("calibration", "comparison", "parts", "reasons", "history_weights"), "object"),
    "scores.parquet": dict.fromkeys(("percentile", "probability"), "Float64"),
    "bundle/training.json": {"fixed_values": "object"},
    "bundle/calibration.json": dict.fromkeys(("percentile", "probability"), "object"),
    "bundle/metrics.json": dict.fromkeys(("comparison", "calibration"), "object"),
}
"""By file the fields that may be missing or null, and their types."""
STORE_ARRAYS = {
    "categorical": "by payment and categorical feature the row of its value in the table of vectors",
    "numerical": "by payment and number its scaled value",
    "engineered": "the same of numbers that have no history",
    "raw_numerical": "by payment and number its value before scaling",
    "tokens": "by payment and feature a number that is equal for equal values",
    "time_seconds": "by payment its time",
    "label": "by payment 1 fraud, 0 genuine, -1 not known",
    "known_at_seconds": "by payment the time from which its outcome counts",
}
INDEXES = {
    "order": "the payments by key, those of a key in order of time",
    "position": "by payment its place in `order`",
    "start": "by payment the first place of its key in `order`",
    "role": "by place whether the key sent or received; only where a history has several key columns",
}


def fields(file: Path) -> dict[str, str]:
    """The fields of a file and their types; `null` where a value is missing."""
    if file.suffix == ".parquet":
        return {name: str(kind) for name, kind in pl.read_parquet_schema(file).items()}
    text = file.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.split("\n")[0] if file.suffix == ".jsonl" else text)
    kinds = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return {name: kinds.get(type(value), "null") for name, value in found.items()}


def rows(run: Path, name: str) -> list[tuple[str, str, str]]:
    """Field, type, meaning, in the order of the meanings.

    Raises:
        ValueError: If a field has no meaning, or a meaning has no field.
    """
    found, meanings, optional = fields(run / name), FILES[name][1], OPTIONAL.get(name, {})
    if missing := set(found) - set(meanings):
        raise ValueError(f"docs/make_files.py must say what these fields of {name} mean: {', '.join(sorted(missing))}")
    if gone := set(meanings) - set(found) - set(optional):
        raise ValueError(f"{name} has no such fields, leave them out of docs/make_files.py: {', '.join(sorted(gone))}")
    return [(f"`{field}`", optional.get(field) or found[field], meaning) for field, meaning in meanings.items()]


def table(lines: list[tuple[str, str, str]], first: str = "Field") -> str:
    """A table in Markdown."""
    return "\n".join([f"| {first} | Type | Meaning |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in lines)])


def arrays() -> str:
    """The arrays of a store."""
    kinds = ARRAYS | {f"HISTORY.{name}": kind for name, kind in (INDEX_ARRAYS | ROLE_ARRAY).items()}
    meanings = STORE_ARRAYS | {f"HISTORY.{name}": meaning for name, meaning in INDEXES.items()}
    if set(kinds) != set(meanings):
        raise ValueError(f"docs/make_files.py must explain the arrays {sorted(set(kinds) ^ set(meanings))}")
    text = "### Arrays of a store\n\nNumPy files; HISTORY is the name of a history. `rows.parquet` has the values as read.\n"
    lines = [(f"`{name}.npy`", np.dtype(kind).name, meanings[name]) for name, kind in kinds.items()]
    return f"{text}\n{table(lines, 'File')}\n"


def text(run: Path) -> str:
    """The page."""
    parts = [HEAD]
    titles = {"run.json": "## A run", "bundle/manifest.json": "## Its bundle", "store/manifest.json": "## Its store"}
    for name, (purpose, _) in FILES.items():
        parts += [f"{titles[name]}\n"] if name in titles else []
        parts.append(f"### {name}\n\n{purpose}\n\n{table(rows(run, name))}\n")
    return "\n".join([*parts, arrays(), FOOT])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    PAGE.write_text(text(Path(sys.argv[1])), encoding="utf-8")
