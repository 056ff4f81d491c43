"""What is shown as it is written: help, names and values, with brackets and colons in them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.table import Table

from tsa.cli import console as terminal

Tsa = Callable[..., Any]
WRITTEN = "[training] duplicate_id:id: [/] :smile: [bold]x[/bold]"


@pytest.mark.parametrize(
    ("command", "text"),
    [("monitor", "[monitoring]"), ("train", "[training] and"), ("simulate", "[default: 200000,")],
)
def test_help_keeps_what_stands_in_brackets(command: str, text: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "tsa", command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert text in " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize("to", ["console", "errors"])
def test_no_markup_and_no_pictures_in_names_and_values(
    to: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console: Any = getattr(terminal, to)
    monkeypatch.setattr(console, "width", 200)
    terminal.print_line(WRITTEN, console)
    table = Table("reason", WRITTEN, title=WRITTEN)
    table.add_row(WRITTEN, WRITTEN)
    console.print(table)
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count(WRITTEN) == 5, shown


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, r"split.test must hold payments whose outcome is known, but none of \d+ is; wait for outcomes"),
        ("minus one", r"training rows must contain fraud and genuine .* \(got (\d+) of \1 fraud\); a label of -1"),
    ],
)
def test_what_is_known_after_preparing_is_refused_before_training(
    tsa: Tsa, demo_log: Path, demo_market: Path, small: tuple[str, ...], tmp_path: Path, label: str | None, message: str
) -> None:
    at, fraud = pl.col("paid_at").dt.date(), pl.col("is_fraud")
    changed = {
        None: pl.when(at >= date(2025, 4, 16)).then(None).otherwise(fraud),
        "minus one": pl.when(fraud == 1).then(1).otherwise(-1),
    }
    log = tmp_path / "log.parquet"
    pl.read_parquet(demo_log).with_columns(is_fraud=changed[label]).write_parquet(log)
    run = tmp_path / "run"
    made = tsa("run", "-m", demo_market, log, "--out", run, *small, "--set", "training.early_stopping=false")
    assert made.code == 2
    assert re.search(message, made.err), made.err
    assert not (run / "bundle").exists()
    assert not (run / "metrics.jsonl").exists()
    if label is None:
        made = tsa("train", run / "store", "--out", tmp_path / "other", *small)
        assert made.code == 2
        assert re.search(message, made.err), made.err


def test_a_log_without_frauds_to_validate_on_is_not_compared(
    tsa: Tsa,
    demo_log: Path,
    demo_market: Path,
    small: tuple[str, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network can still be trained: only early stopping and LightGBM need frauds there."""
    monkeypatch.setattr(logging.getLogger("tsa"), "propagate", True)
    in_validation = pl.col("paid_at").dt.date().is_between(date(2025, 3, 20), date(2025, 3, 29))
    log, run = tmp_path / "log.parquet", tmp_path / "run"
    none = pl.when(in_validation).then(0).otherwise(pl.col("is_fraud"))
    pl.read_parquet(demo_log).with_columns(is_fraud=none).write_parquet(log)
    made = tsa("run", "-m", demo_market, log, "--out", run, *small)
    assert made.code == 0, made.err
    rule = r"no comparison with LightGBM: validation rows must contain fraud and genuine payments \(got 0 of \d+ fraud"
    assert re.search(rule, caplog.text)
    report = json.loads((run / "report.json").read_text())
    assert report["comparison"] is None
    assert any("Early stopping is off" in note for note in report["training"]["adapted"])
