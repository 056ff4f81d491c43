"""Repeat a check at an interval. Start with `watch`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from tsa.errors import TSAError
from tsa.files.locking import used_alone
from tsa.files.writing import write_text
from tsa.monitoring.watching.history import Entry, entry_of, failed_entry, read_history, write_history
from tsa.monitoring.watching.page import PAGE, history_page
from tsa.monitoring.watching.webhook import Webhook

logger = logging.getLogger(__name__)

HOUR_SECONDS = 3600.0
MAX_PAUSE_SECONDS = 60.0
"""How long the clock is not read: a machine that slept checks soon after it wakes."""
CALLED = ("alert", "failed")
"""Results that the webhook is called for."""


@dataclass(frozen=True)
class Clock:
    """The time, and how to wait; tests have their own."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], object] = time.sleep


def watch(
    check: Callable[[], Mapping[str, Any]],
    out: Path,
    *,
    every_hours: float,
    webhook: Webhook | None = None,
    on_entry: Callable[[Entry], object] = lambda entry: None,
    clock: Clock | None = None,
) -> NoReturn:
    """Check until the process is ended. After a restart, the next check is when it would have been.

    A check that fails is an entry of the history, and the next one is tried when it is due. Only if no check has ever
    succeeded the error ends the watch: then something is wrong with what was asked for.

    Args:
        check: Makes a check and returns the content of monitor.json.
        out: The folder for history.jsonl and history.html.
        every_hours: From the beginning of a check to that of the next.
        webhook: Called with each alert and each failed check. That it cannot be reached is logged, and in the history.
        on_entry: Receives each new entry.
        clock: The time.

    Raises:
        TSAError: As `check`, if it has never succeeded.
        ConfigError: If another watch uses the folder, or its history is not readable.
    """
    clock = clock or Clock()
    with used_alone(out, "tsa monitor --watch"):
        entries = read_history(out)
        while True:
            _wait_for(_due(entries, every_hours * HOUR_SECONDS, clock.now()), clock)
            entry = _checked(check, entries, clock.now())
            entries = [*entries, _reported(entry, webhook, clock)]
            write_history(out, entries)
            write_text(out / PAGE, history_page(entries, every_hours))
            on_entry(entries[-1])


def _due(entries: list[Entry], interval: float, now: float) -> float:
    """When the next check is due. A last check in the future, by a clock that was wrong, delays it by one interval at most."""
    if not entries:
        return now
    return min(datetime.fromisoformat(entries[-1]["at"]).timestamp(), now) + interval


def _wait_for(due: float, clock: Clock) -> None:
    while (left := due - clock.now()) > 0:
        clock.sleep(min(left, MAX_PAUSE_SECONDS))


def _checked(check: Callable[[], Mapping[str, Any]], entries: list[Entry], now: float) -> Entry:
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    try:
        report = check()
    except (TSAError, OSError) as error:
        if all(entry["status"] == "failed" for entry in entries):
            raise
        problem = f"{type(error).__name__}: {error}"
        logger.warning("the check failed: %s", problem)
        return failed_entry(at, problem)
    entry = entry_of(at, report, entries)
    if not entry["new_payments"]:
        logger.warning("no payment is new since the last check")
    return entry


def _reported(entry: Entry, webhook: Webhook | None, clock: Clock) -> Entry:
    """The entry, with whether the webhook was reached; unchanged where it is not called."""
    if webhook is None or entry["status"] not in CALLED:
        return entry
    names = ("at", "status", "summary", "alerts", "market", "bundle", "range", "n")
    document = {name: entry[name] for name in names if name in entry}
    title = f"tsa monitor, {entry['market']}" if "market" in entry else "tsa monitor"
    # chat programs show `text`
    return {**entry, "webhook_reached": webhook.send({"text": f"{title}: {entry['summary']}", **document}, clock.sleep)}
