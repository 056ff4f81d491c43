"""Erased means erased from the log of decisions too, also while a server writes to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from serving.decisions.conftest import Logged
from tsa.cli import app
from tsa.errors import ConfigError
from tsa.serving.decisions import erase
from tsa.serving.decisions.entries import DECISIONS, OUTCOMES
from tsa.serving.decisions.erase import erase_key
from tsa.serving.decisions.journal import Journal
from tsa.serving.decisions.parquet_files import read_table
from tsa.serving.history.metadata import pseudonymised


@pytest.fixture
def copy(logged: Logged, tmp_path: Path) -> Path:
    shutil.copytree(logged.folder, tmp_path / "log")
    return tmp_path / "log"


def test_history_delete_reaches_the_log(logged: Logged, copy: Path, tmp_path: Path) -> None:
    shutil.copy(logged.store.removeprefix("sqlite:///"), tmp_path / "h.db")
    card = next(row["card"] for row in logged.rows if row["card"])
    own = {row["id"] for row in logged.rows if row["card"] == card}
    words = ["history", "delete", "--history", f"sqlite:///{tmp_path}/h.db", "--key", f"card={card}"]
    result = CliRunner().invoke(app, [*words, "--decisions", str(copy)])
    assert result.exit_code == 0, result.output
    assert f": {len(own)} payments" in result.output
    market = logged.case.bundle.market
    hidden = {pseudonymised(market, "id", id_) for id_ in own}
    place = {"history": "card", "key": pseudonymised(market, "card", card)}
    left = read_table(copy, DECISIONS)
    assert len(left) == 300 - len(own)
    assert place not in [key for keys in left["keys"].to_list() for key in keys]
    for table in (DECISIONS, OUTCOMES):
        assert not hidden & set(read_table(copy, table)["id"].to_list())
    assert not any(
        pseudonymised(market, "card", card).encode() in path.read_bytes() for path in copy.rglob("*.parquet")
    )
    assert erase_key(copy, ("card", place["key"])) == 0


def test_a_journal_in_use_is_an_error_and_not_forgotten(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase, "rotate_all", lambda folder: erase_rotate(folder, within=0.2))
    journal = Journal(copy)
    journal.append(b"{}\n")
    with pytest.raises(ConfigError, match="convert its journal"):
        erase_key(copy, ("card", "x"))
    journal.close()
    assert erase_key(copy, ("card", "x")) == 0
    assert isinstance(read_table(copy, DECISIONS), pl.DataFrame)


erase_rotate = erase.rotate_all
