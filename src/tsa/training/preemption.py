"""Handle SIGTERM, by which a scheduler ends a job, and SIGHUP, of a closed terminal, between two training steps.

If SIGHUP is ignored, as with nohup, it remains ignored.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class StopRequest:
    """Whether the process has received a signal to stop."""

    to_stop: bool = False


@contextmanager
def capture_sigterm() -> Iterator[StopRequest]:
    """Inside the block SIGTERM and SIGHUP only set a flag. Only the main thread can handle signals; others change nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(*_: Any) -> None:
        request.to_stop = True

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class PreemptionMonitor:
    """Collects the stop and checkpoint flags of all processes, and returns the decision that all follow."""

    def __init__(self, minutes: float, asked: StopRequest, *, keeps_time: bool) -> None:
        self.seconds, self.asked, self.keeps_time = 60.0 * minutes, asked, keeps_time
        self.saved()

    def saved(self) -> None:
        """Restart the clock after a checkpoint."""
        self._since = time.monotonic()

    @property
    def local_flags(self) -> tuple[float, float]:
        """(stop, save), 1 if requested. `decide` takes their sums over the processes."""
        due = self.keeps_time and time.monotonic() - self._since >= self.seconds
        return float(self.asked.to_stop), float(due)

    @staticmethod
    def decide(sums: Sequence[float]) -> tuple[bool, bool]:
        """Whether to stop and whether to save, the same in all processes."""
        stop, save = sums
        return stop > 0, stop > 0 or save > 0
