"""The product on public sets: the model, its parts, and the LightGBM baseline, on the same rows, with intervals.

    python benchmarks/public.py [NAME…] --data FOLDER [--seeds 0,1,2] [--add] [--set training.epochs=4] [--out FOLDER]
    python benchmarks/public.py NAME --how
    python benchmarks/public.py NAME --convert RAW --data FOLDER

Each set is a file in FOLDER, made from its public source: `--how` says where to get it, `--convert` makes the file where
that takes no more than reading. The sha256 of a file is checked before it is used. The market files under `public_sets` are
the protocol: features, label delay and split in time. Results are added to `public.json`, and docs/about/benchmarks.md is written
from it. With --add the seeds of a set that were measured before stay. With --out the folder of each run stays, which
`joining.py` reads, and the same command continues one that was interrupted.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import tsa
from public_catalogue import SETS, PublicSet
from public_page import page_of, with_results
from tsa.config.overrides import Overrides
from tsa.data.store.manifest import MANIFEST
from tsa.evaluation.baseline.lightgbm import compare
from tsa.evaluation.metrics.evaluate_scores import ScoredPayments, evaluate_scores, paired_difference
from tsa.files.writing import sha256_of, write_json, write_text
from tsa.inference.score_parts import event_log_odds
from tsa.inference.scorer import Scorer
from tsa.training import TrainingConfig

HERE = Path(__file__).parent
JSON, PAGE = HERE / "public.json", HERE.parent / "docs" / "about" / "benchmarks.md"
README = HERE.parent / "README.md"
DATA = HERE.parents[1] / "shared" / "data" / "public"
SHOWN = ("average_precision", "roc_auc")


def file_of(name: str, data: Path) -> Path:
    """The file of a set, checked. Ends the program with instructions if it is missing or another."""
    one = SETS[name]
    found = next((path for path in (data / one.file, data.parent / one.file) if path.is_file()), None)
    if found is None:
        sys.exit(f"{data / one.file} is missing.\n{instructions(name)}")
    if one.sha256 is not None and (got := sha256_of(found)) != one.sha256:
        sys.exit(f"{found} must have the sha256 {one.sha256} (got {got}).\n{instructions(name)}")
    return found


def instructions(name: str) -> str:
    """Where to get a set, and how to make its file."""
    one = SETS[name]
    lines = [f"{name}: {one.question}", f"source: {one.source}", f"make: {one.how}"]
    if one.convert is not None:
        lines.append(f"then: python benchmarks/public.py {name} --convert RAW --data FOLDER")
    lines.append(f"file: {one.file}, sha256 {one.sha256 or 'not checked, since it is generated'}")
    return "\n".join(lines)


def measure(one: PublicSet, file: Path, seed: int, sets: Sequence[str], out: Path | None = None) -> dict[str, Any]:
    """Train with one seed, in the folder `out` if it is to stay; the model, each part and the baseline on the test range.

    A run that was interrupted in `out` is continued, and its training seconds are those of the last part.
    """
    settings = Overrides.read(sets, one.market)
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        if (folder / "store" / MANIFEST).is_file():
            store = tsa.EventStore.open(folder / "store")
        else:
            store = tsa.prepare(settings.market, [file], folder / "store")
        began = time.perf_counter()
        training = TrainingConfig.make({"seed": seed, **settings.training})
        # with both parts each can be shown alone, whatever the model is made of
        model = {"parts": "auto", **settings.model}
        bundle = tsa.train(store, folder / "run", model=model, training=training, resume=True)
        seconds = time.perf_counter() - began
        rows = store.labelled("test")
        scores = {
            "model": Scorer(bundle).score_rows(store, rows).astype(np.float64),
            "network": event_log_odds(bundle.network, store, rows).astype(np.float64),
        }
        if bundle.trees is not None:
            scores["trees"] = bundle.trees.of_store(store, rows)
        of = {f"rows_{name}": store.labelled(name) for name in ("train", "validation", "test")}
        baseline = compare(store, **of, seed=seed, threads=torch.get_num_threads())
        scores["baseline"] = baseline.scores
        label, times = np.asarray(store.label[rows]), np.asarray(store.time_seconds[rows])
        payments = ScoredPayments(label=label, score=scores["model"], time_seconds=times)
    columns = {
        name: {key: values for key, values in _measured(payments, score).items() if key in SHOWN}
        for name, score in scores.items()
    }
    differences = {
        name: paired_difference(scores["model"], score, payments)["average_precision"]
        for name, score in scores.items()
        if name != "model"
    }
    return {
        "seed": seed,
        "parts": bundle.joining.parts,
        "payments": len(rows),
        "frauds": int(label.sum()),
        "columns": columns,
        "differences": differences,
        "training_seconds": round(seconds, 1),
        "baseline_seconds": round(baseline.seconds, 1),
    }


def _measured(payments: ScoredPayments, score: np.ndarray) -> Mapping[str, Any]:
    """The metrics of some scores. They depend on the order alone, so log odds and probabilities may be mixed."""
    taken = ScoredPayments(label=payments.label, score=score, time_seconds=payments.time_seconds)
    metrics: Mapping[str, Any] = evaluate_scores(taken, threshold=0.5)["metrics"]
    return metrics


def environment(sets: Sequence[str]) -> dict[str, Any]:
    """What the results depend on besides data and seed."""
    return {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": list(sets),
    }


def save(
    name: str, runs: Sequence[Mapping[str, Any]], sets: Sequence[str], out: Path, page: Path, *, add: bool = False
) -> None:
    """Replace the results of a set, and write the page again. With `add` those of other seeds stay.

    Raises:
        SystemExit: With `add`, if the other seeds were measured in another environment.
    """
    results = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    made, known = environment(sets), results.get(name)
    if add and known is not None:
        if known["environment"] != made:
            sys.exit(f"--add needs one environment for all seeds (got {made}, before {known['environment']})")
        seeds = {run["seed"] for run in runs}
        runs = sorted(
            [*runs, *(run for run in known["runs"] if run["seed"] not in seeds)], key=lambda run: int(run["seed"])
        )
    results[name] = {"runs": list(runs), "environment": made}
    results = {known: results[known] for known in SETS if known in results}
    write_json(out, results)
    write_text(page, page_of(results))
    if page == PAGE:
        write_text(README, with_results(README.read_text(encoding="utf-8"), results))


def convert(name: str, raw: Path, data: Path) -> None:
    """Make the file of a set from its raw data."""
    one = SETS[name]
    if one.convert is None:
        sys.exit(f"{name} has no converter.\n{instructions(name)}")
    table: pl.DataFrame = one.convert(raw)
    data.mkdir(parents=True, exist_ok=True)
    table.write_parquet(data / one.file)
    print(f"{data / one.file}: {len(table):,} rows, sha256 {sha256_of(data / one.file)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SETS)}; default: all that are at hand")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the files")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--threads", type=int, default=1, help="of the network and of LightGBM")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="as for tsa train")
    parser.add_argument("--add", action="store_true", help="keep the results of the set's other seeds")
    parser.add_argument("--out", type=Path, help="keep the runs here, in a folder for each set and seed")
    parser.add_argument("--json", type=Path, default=JSON, help="results, added to those that are there")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--how", action="store_true", help="only say how to get the files")
    parser.add_argument(
        "--convert", type=Path, metavar="RAW", help="only make the file of NAME from this raw file or folder"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in SETS]:
        parser.error(f"NAME must be one of {', '.join(SETS)} (got {', '.join(unknown)})")
    if arguments.how:
        print("\n\n".join(instructions(name) for name in arguments.names or SETS))
        return
    if arguments.convert is not None:
        if len(arguments.names) != 1:
            parser.error(f"--convert needs one NAME (got {len(arguments.names)})")
        convert(arguments.names[0], arguments.convert, arguments.data)
        return
    torch.set_num_threads(arguments.threads)
    folders = (arguments.data, arguments.data.parent)
    at_hand = [name for name, one in SETS.items() if any((folder / one.file).is_file() for folder in folders)]
    for name in arguments.names or at_hand:
        file, runs = file_of(name, arguments.data), []
        for seed in (int(seed) for seed in arguments.seeds.split(",")):
            out = arguments.out and arguments.out / f"{name}-{seed}"
            runs.append(measure(SETS[name], file, seed, arguments.sets, out))
            print(name, line_of(runs[-1]), flush=True)
            save(name, runs, arguments.sets, arguments.json, arguments.page, add=arguments.add)


def line_of(run: Mapping[str, Any]) -> str:
    """A run in one line."""
    values = (
        f"{name} {column['average_precision']['value']:.3f} / {column['roc_auc']['value']:.3f}"
        for name, column in run["columns"].items()
    )
    return f"seed {run['seed']}: {', '.join(values)} (average precision / ROC AUC; model: {' and '.join(run['parts'])})"


if __name__ == "__main__":
    main()
