"""Both arms compared: a difference that is there is called clear, chance is not, and keys are drawn, not payments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tsa.errors import ConfigError
from tsa.serving.decisions.background_writer import DecisionLog
from tsa.serving.decisions.compare import compare_arms, sentence
from tsa.serving.decisions.entries import DECISIONS, outcome_entry
from tsa.serving.results import CHALLENGER, CHAMPION


def write(folder: Path, *, stops: dict[str, float], per_key: int = 4, keys: int = 400) -> Path:
    """Payments of both arms, a fifth of them fraud, of which each arm stops a share; amounts are 100."""
    rng, log, at = np.random.default_rng(0), DecisionLog(folder), 0
    entries: list[dict[str, Any]] = []
    for key in range(keys):
        arm = CHALLENGER if key % 2 else CHAMPION
        fraud, stopped = rng.random() < 0.2, rng.random()
        for _ in range(per_key):
            decision = "decline" if stopped < (stops[arm] if fraud else 0.05) else "accept"
            own: dict[str, Any] = dict.fromkeys(("percentile", "probability", "thresholds", "histories"))
            own |= {"table": DECISIONS, "at": 1e9 + at, "id": f"p{at}", "time": 1e9 + at, "market": "shop"}
            own |= {"version": arm, "arm": arm, "raw_score": float(rng.random()), "decision": decision, "role": 0}
            own |= {"degraded": False, "replayed": False, "keys": [{"history": "card", "key": f"c{key}"}]}
            own["values"] = orjson.dumps({"amount": 100.0}).decode()
            entries += [own, outcome_entry(f"p{at}", bool(fraud), 1e9 + at, None)]
            at += 1
    log.record(entries)
    log.close()
    return folder


def test_a_difference_that_is_there_is_clear(tmp_path: Path) -> None:
    found = compare_arms(write(tmp_path, stops={CHAMPION: 0.2, CHALLENGER: 0.9}), amount="amount")
    arms = found["arms"]
    assert arms[CHAMPION]["payments"] == arms[CHALLENGER]["payments"] == 800
    assert arms[CHAMPION]["keys"] == 200
    caught = found["measures"]["share of frauds stopped"]
    assert caught["clear"]
    assert caught["low"] > 0.3
    saved = found["measures"]["fraud stopped, money per payment"]
    assert saved["clear"]
    assert saved[CHALLENGER] == pytest.approx(100 * caught[CHALLENGER] * arms[CHALLENGER]["frauds"] / 800)
    assert not found["measures"]["fraud rate of known outcomes"]["clear"]
    assert sentence("caught", caught).endswith("a clear difference")


def test_chance_is_not_clear_and_payments_of_a_key_count_as_one(tmp_path: Path) -> None:
    folder = write(tmp_path, stops={CHAMPION: 0.5, CHALLENGER: 0.5}, keys=100, per_key=16)
    wide = compare_arms(folder)["measures"]
    assert not any(values["clear"] for values in wide.values())
    assert "fraud let through, money per payment" not in wide
    ids = compare_arms(folder, split_by="terminal")["measures"]  # no such key: each payment alone
    width = {name: values["high"] - values["low"] for name, values in wide.items()}
    name = "share of frauds stopped"
    assert width[name] > 2 * (ids[name]["high"] - ids[name]["low"])


def test_too_few_and_none(tmp_path: Path) -> None:
    folder = write(tmp_path / "few", stops={CHAMPION: 0.5, CHALLENGER: 0.5}, keys=10, per_key=1)
    values = compare_arms(folder)["measures"]["fraud rate of known outcomes"]
    assert values["low"] is None
    assert "no interval" in sentence("x", values) or "undefined" in sentence("x", values)
    with pytest.raises(ConfigError, match="--amount must be a recorded column"):
        compare_arms(folder, amount="price")
    with pytest.raises(ConfigError, match="has no answers of the"):
        compare_arms(folder, until=1e9 + 1)
