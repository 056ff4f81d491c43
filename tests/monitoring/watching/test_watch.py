"""A watch: checks when they are due, a history that outlives it, a page, and an end without half a file."""

from __future__ import annotations

import json
import os
import signal
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from support.webhook_receiver import receiver
from tsa.errors import ConfigError, DataError
from tsa.files.locking import used_alone
from tsa.monitoring.watching import watch as watching
from tsa.monitoring.watching.history import MAX_CHECKS, read_history, write_history
from tsa.monitoring.watching.watch import Clock, watch
from tsa.monitoring.watching.webhook import Webhook

HOUR = 3600.0
DRIFT = {"severity": "alert", "measure": "psi", "feature": "<b>amount</b>", "value": 0.4, "reference": None}


class Ended(Exception):
    """The test has seen enough."""


def clock_of(hours: float, start: float = 1_800_000_000.0) -> Clock:
    """A clock that moves when somebody sleeps, and ends the watch after so many hours."""
    time = [start]

    def sleep(seconds: float) -> None:
        if time[0] + seconds >= start + hours * HOUR:
            raise Ended
        time[0] += seconds

    return Clock(lambda: time[0], sleep)


def report(*alerts: dict[str, Any], n: int = 100) -> dict[str, Any]:
    """The least that an entry is made of."""
    measured = {"frauds": 12, "share": 1.0, "metrics": {"average_precision": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    return {
        "summary": "1 alert" if alerts else "No alert",
        "alerts": list(alerts),
        "market": "demo",
        "bundle": "ab" * 32,
        "range": {"start": "2025-04-01T00:00:00+00:00", "end": f"2025-04-08T00:00:{n % 60:02}+00:00"},
        "n": n,
        "scores": {"full_range": {"psi": 0.02}},
        "volume": {"full_range": {"change": None}},
        "performance": {"full_range": measured},
        "expected": {
            "believed": True,
            "windows": [{"metrics": {"average_precision": {"value": 0.45, "low": 0.4, "high": 0.5}}}],
        },
    }


def watched(out: Path, results: list[Any], hours: float, **settings: Any) -> list[dict[str, Any]]:
    """Let a watch run for so many hours; its history. Each result is a report, or an error to raise."""
    left = iter(results)

    def check() -> dict[str, Any]:
        result = next(left)
        if isinstance(result, Exception):
            raise result
        return dict(result)

    with pytest.raises(Ended):
        watch(check, out, every_hours=1, clock=settings.pop("clock", clock_of(hours)), **settings)
    return read_history(out)


def test_checks_are_made_when_due_and_after_a_restart(tmp_path: Path) -> None:
    first = watched(tmp_path, [report(n=1), report(n=2)], 2)
    assert [entry["at"][11:16] for entry in first] == ["08:00", "09:00"]
    later = clock_of(2.5, start=1_800_000_000.0 + 1.5 * HOUR)  # half an hour after the last check
    again = watched(tmp_path, [report(n=3), report(n=4)], 0, clock=later)
    assert [entry["at"][11:16] for entry in again] == ["08:00", "09:00", "10:00", "11:00"]
    assert [entry["status"] for entry in again] == ["ok"] * 4
    before = clock_of(1.5, start=1_800_000_000.0 - 900 * HOUR)  # a clock that was set back
    assert len(watched(tmp_path, [report(n=5)], 0, clock=before)) == 5


def test_alerts_and_failures_are_sent_and_the_watch_continues(tmp_path: Path) -> None:
    results = [report(n=1), report(DRIFT, n=2), report(DRIFT, n=3), DataError("half a file"), report(n=3)]
    with receiver(200, 500) as (url, got):
        entries = watched(tmp_path, results, 5, webhook=Webhook(url=url))
    assert [entry["status"] for entry in entries] == ["ok", "alert", "alert", "failed", "warning"]
    assert [entry["alerts"][0]["new"] for entry in entries[1:3]] == [True, False]
    assert [entry.get("webhook_reached") for entry in entries] == [None, True, False, False, None]
    assert [one["body"]["status"] for one in got] == ["alert", *["alert"] * 3, *["failed"] * 3]
    assert got[0]["body"]["text"] == "tsa monitor, demo: 1 alert"
    assert entries[3]["summary"] == "The check failed: DataError: half a file"
    assert entries[4]["new_payments"] is False, "the same payments as before the failure"
    text = (tmp_path / "history.html").read_text()
    ET.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert "&lt;b&gt;amount" in text
    assert "<b>" not in text
    assert "secret" not in text + (tmp_path / "history.jsonl").read_text()


def test_the_first_check_must_succeed(tmp_path: Path) -> None:
    def check() -> dict[str, Any]:
        raise ConfigError("a --reference is needed")

    with pytest.raises(ConfigError, match="a --reference is needed"):
        watch(check, tmp_path, every_hours=1)
    assert read_history(tmp_path) == []


def test_one_watch_for_a_folder_and_a_history_of_this_program(tmp_path: Path) -> None:
    with used_alone(tmp_path, "a test"), pytest.raises(ConfigError, match="must be used by one tsa monitor --watch"):
        watch(report, tmp_path, every_hours=1)
    write_history(tmp_path, [{"at": "", "status": "ok", "alerts": []}] * (MAX_CHECKS + 1))
    assert len(read_history(tmp_path)) == MAX_CHECKS
    (tmp_path / "history.jsonl").write_text('{"at": 1}\n')
    with pytest.raises(ConfigError, match=r"line 1, must be an entry that tsa monitor wrote"):
        watch(report, tmp_path, every_hours=1)


def test_the_command_ends_with_sigterm(tsa: Callable[..., Any], demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    checks = []

    def wait_for(due: float, clock: Clock) -> None:
        checks.append(due)
        if len(checks) > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    options = ("--last", 3, "--replicates", 0, "--watch", 24, "--out", tmp_path / "m", "--quiet")
    with patch.object(watching, "_wait_for", wait_for):
        ended = tsa("monitor", demo_run / "bundle", demo_log, *options)
    assert (ended.code, ended.err) == (0, ""), ended.err
    (entry,) = read_history(tmp_path / "m")
    assert ended.out.startswith(f"{entry['at']} {entry['status']}: ")
    made = json.loads((tmp_path / "m" / "monitor.json").read_text())
    assert (entry["n"], entry["range"]) == (made["n"], made["range"])
    assert made["range"]["start"] > "2025-04"
    assert [path.name for path in (tmp_path / "m").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--watch", 0), "--watch must be a number of hours above 0"),
        (("--last", 3, "--from", "2025-04-01"), "a range has a start or a number of last days"),
        (("--last", -1), "the number of last days must be above 0"),
        (("--webhook-token-env", "NOT_SET"), "--webhook-token-env needs --webhook"),
        (("--watch", 1, "--webhook", "http://h/", "--webhook-token-env", "NOT_SET"), "NOT_SET must contain a token"),
    ],
)
def test_options_that_do_not_fit(
    tsa: Callable[..., Any], demo_run: Path, demo_log: Path, tmp_path: Path, options: tuple[object, ...], error: str
) -> None:
    refused = tsa("monitor", demo_run / "bundle", demo_log, "--out", tmp_path / "m", *options)
    assert refused.code == 2
    assert error in " ".join(refused.err.split())
