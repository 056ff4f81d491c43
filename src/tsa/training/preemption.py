"""SIGTERM, how a scheduler says that the machine is wanted back, and SIGHUP, of a terminal that was closed.

They are noted here, and heeded between two steps. SIGHUP that is ignored, as nohup does, stays ignored.
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
    """Whether the process was asked to stop."""

    to_stop: bool = False


@contextmanager
def capture_sigterm() -> Iterator[StopRequest]:
    """Inside the block SIGTERM and SIGHUP only raise a flag. Outside of the main thread, which alone may, nothing is changed."""
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(*_: Any) -> None:
        asked.to_stop = True

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class PreemptionMonitor:
    """What each process wishes before a step, and what all of them then do after it."""

    def __init__(self, minutes: float, asked: StopRequest, *, keeps_time: bool) -> None:
        self.seconds, self.asked, self.keeps_time = 60.0 * minutes, asked, keeps_time
        self.saved()

    def saved(self) -> None:
        """A checkpoint was written: the clock starts again."""
        self._since = time.monotonic()

    @property
    def local_flags(self) -> tuple[float, float]:
        """(to stop, to save), 1 where it is wished; the sums over the processes are what `decide` takes."""
        due = self.keeps_time and time.monotonic() - self._since >= self.seconds
        return float(self.asked.to_stop), float(due)

    @staticmethod
    def decide(sums: Sequence[float]) -> tuple[bool, bool]:
        """Whether to stop, and whether to save: the same in all processes."""
        stop, save = sums
        return stop > 0, stop > 0 or save > 0
