"""Run the notebooks from top to bottom, each in an empty folder with the files that it reads.

    python examples/notebooks/run.py [NAME...] [--public FOLDER] [--legacy FOLDER]

Bitcoin Alpha's ratings are public, and models of the legacy system belong to those who trained them: neither is part of the
repository. Where FOLDER does not have them, the notebook runs on made-up files of the same form, and the output says so.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import numpy as np
import polars as pl
from nbclient import NotebookClient

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHARED = ROOT.parent / "shared"
PUBLIC = SHARED / "data" / "public"
LEGACY = SHARED / "golden" / "legacy_eu"
TIMEOUT_SECONDS = 600
MADE_UP, REAL = "made-up data", "the real data"


def ratings(folder: Path, public: Path, _legacy: Path) -> str:
    """Write Bitcoin Alpha's file as SNAP gives it. Returns what it was made of."""
    found = public / "bitcoin_alpha.parquet"
    if found.exists():
        table = pl.read_parquet(found).select("src", "dst", "rating", pl.col("time").dt.epoch("s"))
    else:
        # bad accounts get bad ratings, so that there is something to learn
        generator, n = np.random.default_rng(0), 4000
        rater, rated = generator.integers(1, 200, n), generator.integers(1, 200, n)
        bad = generator.random(n) < np.where(rated % 8 == 0, 0.5, 0.02)
        seconds = np.sort(generator.integers(1_289_174_400, 1_453_420_800, n))
        table = pl.DataFrame([rater, rated, np.where(bad, -10, generator.integers(1, 11, n)), seconds])
    table.write_csv(folder / "soc-sign-bitcoinalpha.csv", include_header=False)
    return REAL if found.exists() else MADE_UP


def legacy_model(folder: Path, _public: Path, legacy: Path) -> str:
    """Write a model of the legacy system with its market, rows and, for a real one, scores. Returns what it was made of."""
    if (legacy / "cases.jsonl.gz").exists():
        shutil.copytree(legacy, folder / "model", ignore=shutil.ignore_patterns("market.toml", "cases.*"))
        shutil.copyfile(legacy / "market.toml", folder / "market.toml")
        with gzip.open(legacy / "cases.jsonl.gz", "rt", encoding="utf-8") as file:
            cases = [json.loads(line) for line in file]
        cases = [case for case in cases if case["kind"] == "valid" and math.isfinite(case["expected"]["raw"])]
        rows = [{**case["row"], "objectId": str(at)} for at, case in enumerate(cases)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        scores = [case["expected"]["raw"] for case in cases]
        pl.DataFrame({"id": range(len(scores)), "raw_score": scores}).write_csv(folder / "legacy_scores.csv")
        return REAL
    sys.path.insert(0, str(ROOT / "tests"))
    from support.legacy_folder import market_toml, some_payments, write_original

    golden = json.loads((ROOT / "tests" / "golden" / "scores.json").read_text(encoding="utf-8"))
    original = write_original(folder / "model", golden)
    (folder / "market.toml").write_text(market_toml(original.market), encoding="utf-8")
    some_payments(original).write_ndjson(folder / "rows.jsonl")
    return MADE_UP


INPUTS: Mapping[str, tuple[str, Callable[[Path, Path, Path], str]]] = {
    "bitcoin_alpha": ("TSA_PUBLIC_DATA", ratings),
    "legacy": ("TSA_LEGACY", legacy_model),
}
"""By notebook: the environment variable that names its folder, and what fills it. The others simulate their payments."""


def run(name: str, public: Path, legacy: Path) -> None:
    """Run a notebook. Raises an error if a cell fails, or none shows anything."""
    began, made_of = time.perf_counter(), "simulated payments"
    book = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory(prefix="tsa-notebook-") as folder:
        environment = dict(os.environ)
        if name in INPUTS:
            variable, fill = INPUTS[name]
            given = Path(folder) / "given"
            given.mkdir()
            made_of = fill(given, public, legacy)
            environment[variable] = str(given)
        client = NotebookClient(book, timeout=TIMEOUT_SECONDS, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    if not any(cell.get("outputs") for cell in book.cells):
        raise SystemExit(f"{name}: a notebook must show something")
    print(f"{name}: {time.perf_counter() - began:.0f} s, {made_of}", flush=True)


def main() -> None:
    """Run the notebooks that are named, or all."""
    names = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--public", type=Path, default=PUBLIC, help="a folder with bitcoin_alpha.parquet")
    parser.add_argument("--legacy", type=Path, default=LEGACY, help="a folder with a legacy model and cases.jsonl.gz")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"a notebook must be one of {', '.join(names)} (got {', '.join(sorted(unknown))})")
    for name in options.names or names:
        run(name, options.public, options.legacy)


if __name__ == "__main__":
    main()
