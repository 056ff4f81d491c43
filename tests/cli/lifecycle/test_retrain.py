"""`tsa retrain`: what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tsa.cli.lifecycle.retrain import GATE_FAILED
from tsa.evaluation.promotion.gate import rule_text
from tsa.retraining import Retrained


@pytest.mark.parametrize(
    ("passed", "promoted", "code"), [(True, True, 0), (True, False, 0), (False, False, GATE_FAILED)]
)
def test_exit_codes(
    passed: bool, promoted: bool, code: int, tsa: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [
        {"name": "difference", "text": "difference", "value": -0.5, "at_least": -0.01, "passed": passed, "note": None}
    ]
    gate = {"passed": passed, "rules": rules}
    asked: dict[str, Any] = {}

    def run(*given: Any, **options: Any) -> Retrained:
        asked.update(options)
        return Retrained(
            run=tmp_path, candidate="a" * 64, champion=None, gate=gate, promoted=promoted, summary="a summary"
        )

    monkeypatch.setattr("tsa.retraining.retrain", run)
    market = Path(__file__).parents[3] / "markets" / "demo.toml"
    options = ["--market", market, "--store", tmp_path / "store", "--registry", tmp_path / "registry", "--quiet"]
    ended = tsa("retrain", *options, "--promote", "--set", "training.epochs=3")
    assert ended.code == code, ended.err
    assert "a summary" in ended.out
    assert "-0.5" in ended.out
    assert asked["promote"]
    assert asked["training"].epochs == 3
    assert rule_text(rules[0]) == "difference is -0.5, must be at least -0.01"
