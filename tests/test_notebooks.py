"""The notebooks of examples/notebooks run from top to bottom: the first always, the others with TSA_LONG=1."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import polars as pl
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
RATINGS = Path(__file__).parents[2] / "shared" / "data" / "public" / "bitcoin_alpha.parquet"
QUICK = ("first_report",)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    if path.stem not in QUICK and not os.environ.get("TSA_LONG"):
        pytest.skip("runs with TSA_LONG=1")
    if path.stem == "bitcoin_alpha":
        if not RATINGS.exists():
            pytest.skip("the ratings are not at hand")
        raw = pl.read_parquet(RATINGS).select("src", "dst", "rating", pl.col("time").dt.epoch("s"))
        raw.write_csv(tmp_path / "soc-sign-bitcoinalpha.csv", include_header=False)
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert shown
    assert all(output.output_type != "error" for output in shown)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_outputs_are_stored(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in book.cells)
