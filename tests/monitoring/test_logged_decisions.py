"""`tsa monitor --decisions`: the payments that a bundle answered, with the scores that it gave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serving.decisions.conftest import answer_all
from support.history_case import Case, random_rows
from tsa.errors import ConfigError
from tsa.monitoring.monitor import monitor
from tsa.monitoring.ranges import Span


@pytest.fixture(scope="module")
def log(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitored")
    answer_all(case, random_rows(240, seed=4, cards=15, shops=5), folder, f"sqlite:///{folder}/h.db")
    return folder


def test_recorded_scores_and_outcomes_count(log: Path, case: Case, tmp_path: Path) -> None:
    found = monitor(
        case.path,
        (),
        tmp_path,
        decisions=log / "log",
        span=Span(start="2018-05-07T10:00"),
        reference_span=Span(end="2018-05-07T10:00"),
        replicates=0,
    )
    assert 0 < found["n"] < 240
    assert found["n"] + found["reference"]["n"] == 240
    assert found["performance"]["full_range"]["n"] >= 10
    assert json.loads((tmp_path / "monitor.json").read_text())["n"] == found["n"]


def test_logs_or_decisions_and_this_bundle(log: Path, case: Case, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got both"):
        monitor(case.path, case.log, tmp_path, decisions=log / "log")
    with pytest.raises(ConfigError, match="got neither"):
        monitor(case.path, (), tmp_path)
    other = replace(case.bundle, training={"note": "another"})
    other.save(tmp_path / "other")
    with pytest.raises(ConfigError, match="must have answers of the bundle"):
        monitor(tmp_path / "other", (), tmp_path / "out", decisions=log / "log")
