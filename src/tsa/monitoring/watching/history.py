"""The history of a watch: one entry for each check, in `history.jsonl`.

The file is replaced as one, so that a reader never sees half of an entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tsa.errors import ConfigError
from tsa.files.writing import write_text

FILE = "history.jsonl"
MAX_CHECKS = 10_000
"""Older entries are removed."""
REQUIRED = ("at", "status", "alerts")

Entry = dict[str, Any]


def entry_of(at: str, report: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> Entry:
    """What the history has of a check.

    Args:
        at: When it began.
        report: The content of monitor.json.
        before: The entries of earlier checks, of which the last that has not failed says what is new.

    Returns:
        `at`, `status` (ok, warning or alert), `summary`, `alerts` (each with `new`: not in the check before), the bundle,
        the range, the number of payments, whether any is new, and the measurements that the page draws.
    """
    last = next((entry for entry in reversed(before) if entry["status"] != "failed"), None)
    known = set() if last is None else {_identity(alert) for alert in last["alerts"]}
    alerts = [{**alert, "new": _identity(alert) not in known} for alert in report["alerts"]]
    measured, windows = report["performance"]["full_range"], report["expected"]["windows"]
    estimate: Mapping[str, Any] = next((window["metrics"] for window in reversed(windows) if window["metrics"]), {})
    has_new = last is None or last["range"]["end"] != report["range"]["end"] or last["n"] != report["n"]
    return {
        "at": at,
        "status": _status(alerts, has_new=has_new),
        "summary": report["summary"],
        "alerts": alerts,
        "market": report["market"],
        "bundle": report["bundle"],
        "range": report["range"],
        "n": report["n"],
        "new_payments": has_new,
        "score_psi": report["scores"]["full_range"]["psi"],
        "volume_change": report["volume"]["full_range"]["change"],
        "frauds": measured["frauds"],
        "share_known": measured["share"],
        "average_precision": measured["metrics"].get("average_precision"),
        "calibration": measured["metrics"].get("ratio"),
        "expected": estimate.get("average_precision"),
        "expected_believed": report["expected"]["believed"],
    }


def failed_entry(at: str, problem: str) -> Entry:
    """The entry of a check that could not be made."""
    return {"at": at, "status": "failed", "summary": f"The check failed: {problem}", "alerts": []}


def _identity(alert: Mapping[str, Any]) -> tuple[str, str, str | None]:
    return alert["severity"], alert["measure"], alert["feature"]


def _status(alerts: Sequence[Mapping[str, Any]], *, has_new: bool) -> str:
    if any(alert["severity"] == "alert" for alert in alerts):
        return "alert"
    return "warning" if alerts or not has_new else "ok"


def read_history(folder: Path) -> list[Entry]:
    """The entries of a folder, the first check first; empty if there is no history.

    Raises:
        ConfigError: If the file is not one that this program wrote.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or any(name not in entry for name in REQUIRED):
            raise ConfigError(
                f"{path}, line {number}, must be an entry that tsa monitor wrote; move the file away to begin a new history"
            )
        entries.append(entry)
    return entries


def write_history(folder: Path, entries: Sequence[Entry]) -> None:
    """Replace the history."""
    lines = (json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in entries[-MAX_CHECKS:])
    write_text(folder / FILE, "".join(f"{line}\n" for line in lines))
