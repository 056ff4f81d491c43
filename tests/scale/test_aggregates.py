"""Aggregates by the workers of a Ray cluster: those of one process to the bit; and the comparison that uses them."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsa.data.aggregates.compute import compute_aggregates
from tsa.data.aggregates.spec import AggregateSpec
from tsa.data.store.store import EventStore
from tsa.scale import aggregates
from tsa.scale.aggregates import aggregates_by_ray, aggregates_in_worker

pytestmark = pytest.mark.slow


def test_they_are_those_of_one_process_to_the_bit(
    ray: Any, demo_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In parts that cut the payments of a key, with rows in any order, and where a worker is killed."""
    spec = AggregateSpec.of(demo_store, demo_store.labelled("train"), history_length=None)
    rows = np.random.default_rng(0).permutation(len(demo_store.label))[:1500]
    marker, kill = str(tmp_path / "killed"), int(signal.SIGKILL)

    def killed_once(shared: aggregates.Shared, item: tuple[str, Any]) -> Any:
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), kill)
        return aggregates_in_worker(shared, item)

    monkeypatch.setattr(aggregates, "PART_ROWS", 400)
    monkeypatch.setattr(aggregates, "aggregates_in_worker", killed_once)
    caplog.set_level("INFO", "tsa")
    out = np.full((len(rows), len(spec.names)), -1.0, np.float32)
    aggregates_by_ray(ray, spec, demo_store, rows, out)
    assert os.path.exists(marker)
    (back,) = re.findall(r"8 calls: [1-9]\d* bytes to each node, (\d+) bytes back", caplog.text)
    assert out.nbytes < int(back) < 1.1 * out.nbytes
    assert out.tobytes() == compute_aggregates(spec, demo_store, rows).tobytes()


def test_a_comparison_is_that_of_one_process(ray: Any, own_run: Path, tsa: Callable[..., Any]) -> None:
    made = []
    for words in ((), ("--executor", "ray")):
        outcome = tsa("compare", own_run, "--replicates", 10, *words)
        assert outcome.code == 0, outcome.err
        comparison = json.loads((own_run / "comparison.json").read_text())
        comparison.pop("seconds")
        made.append(comparison)
    assert made[0] == made[1]
