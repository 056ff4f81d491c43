"""`tsa train` and `tsa run` as a user types them: settings from a file, SIGTERM, going on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tsa.cli.terminal.epoch_table import epoch_table
from tsa.cli.training import session
from tsa.config.overrides import Overrides
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError

Tsa = Callable[..., Any]
TOML = """
[training]
epochs = 1
batch_size = 64
learning_rate = 0.01

[model]
width = 8
n_heads = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "training.toml").write_text(TOML)
    return tmp_path / "training.toml"


def test_settings_from_a_file(tsa: Tsa, easy_store: EventStore, file: Path, tmp_path: Path) -> None:
    """--set goes over the file; all settings are written out whole with the run."""
    run = tmp_path / "run"
    made = tsa("train", easy_store.path, "--out", run, "--settings", file, "--set", "training.seed=4", "-q")
    assert (made.code, made.err) == (0, "")
    account = json.loads((run / "run.json").read_text())
    assert (
        account["training"] | {"epochs": 1, "batch_size": 64, "learning_rate": 0.01, "seed": 4} == account["training"]
    )
    assert account["training"]["patience"] == 3
    assert account["model"]["width"] == 8
    found = Overrides.read(["training.epochs=2"], file=file)
    assert found.training == {"epochs": 2, "batch_size": 64, "learning_rate": 0.01}


def test_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for text, message in (
        ("[trainig]\nepochs = 1", r"x\.toml must contain only the sections \[training\] and \[model\] [(]got trainig"),
        ("training = 3", r"must contain only the sections \[training\] and \[model\] [(]got training"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            Overrides.read(None, file=path)
    with pytest.raises(ConfigError, match="no such file"):
        Overrides.read(None, file=tmp_path / "nowhere.toml")


def test_stopped_by_sigterm_and_resumed(tsa: Tsa, easy_store: EventStore, file: Path, tmp_path: Path) -> None:
    """Exit code 143, a sentence that says so, no traceback; without --resume nothing is overwritten."""
    run, epochs = tmp_path / "run", ("--set", "training.epochs=3000", "--set", "training.early_stopping=false")
    words = ["train", easy_store.path, "--out", run, "--settings", file, *epochs]
    command = [sys.executable, "-m", "tsa", *words]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(run.glob("checkpoints/last-*")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert err.startswith("note: stopped by a signal: a checkpoint was saved in epoch ")
    assert err.count("\n") == 1
    assert "TrainingStopped" in (run / "train.log").read_text()

    refused = tsa(*words)
    assert refused.code == 2
    assert "holds an unfinished run; continue it with --resume" in refused.err
    refused = tsa(*words, "--resume", "--set", "training.epochs=2999")
    assert refused.code == 2
    assert "training.epochs: 3000, 2999" in refused.err
    assert not (run / "bundle").exists()


def test_the_whole_job_is_resumed(
    tsa: Tsa, demo_log: Path, demo_market: Path, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store that was made is used again; the report comes at the end."""
    run = tmp_path / "run"
    words = ("run", "--market", demo_market, *small, demo_log, "--out", run, "--no-compare")
    with monkeypatch.context() as patch:
        patch.setattr(
            "tsa.training.trainer.Trainer.train_epoch", lambda *_: (_ for _ in ()).throw(ZeroDivisionError("a crash"))
        )
        with pytest.raises(ZeroDivisionError):
            tsa(*words)
    store = {path: path.stat().st_mtime_ns for path in (run / "store").iterdir()}
    made = tsa(*words, "--resume")
    assert made.code == 0, made.err
    assert made.out.endswith(f"report: {run / 'report.html'}\n")
    assert store == {path: path.stat().st_mtime_ns for path in (run / "store").iterdir()}
    other = tsa(*words, "--resume", "--set", "history.0.length=8")
    assert other.code == 2
    assert "was made for another market" in other.err


def test_epochs_are_shown_as_they_end() -> None:
    """Titles once, then a row each, one below the other; a record without a validation range leaves its places blank."""
    out = io.StringIO()
    show = epoch_table(Console(file=out, force_terminal=True, color_system=None, width=120))
    record = {"epoch": 1, "loss": 0.25, "learning_rate": 3e-3, "gradient_norm": 1.5, "payments_per_second": 1234.0}
    show({**record, "validation_average_precision": 0.5, "seconds": 61.2})
    show({**record, "epoch": 2, "seconds": 60.0})
    titles, first, second = out.getvalue().splitlines()
    assert first.split() == ["1", "0.2500", "0.5000", "3.0e-03", "1.5", "1,234", "61"]
    assert second.split() == ["2", "0.2500", "3.0e-03", "1.5", "1,234", "60"]
    assert titles.index("payments/s") + len("payments/s") == first.index("1,234") + 5 == second.index("1,234") + 5


def test_the_table_is_for_terminals(
    tsa: Tsa, easy_store: EventStore, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    for terminal, quiet, lines in ((True, (), 2), (True, ("-q",), 0), (False, (), 0)):
        out.truncate(0)
        console = Console(file=out, force_terminal=terminal, color_system=None, width=120)
        monkeypatch.setattr(session, "errors", console)
        run = tmp_path / f"{terminal}{len(quiet)}"
        assert tsa("train", easy_store.path, "--out", run, "--settings", file, *quiet).code == 0
        assert out.getvalue().count("\n") == lines
