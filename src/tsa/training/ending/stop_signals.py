"""Handle SIGTERM, by which a scheduler ends a job, SIGHUP, of a closed terminal, and Ctrl-C, between two training steps.

A second Ctrl-C does not wait for the step and the checkpoint. If SIGHUP is ignored, as with nohup, it remains ignored. The
end of the process that started this one can count as SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

PARENT_SECONDS = 1.0
"""How often a process looks whether the one that started it is still there."""
ORPHAN_SECONDS = 60.0
"""How long an orphan may take to save a checkpoint and exit."""

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]


@dataclass
class StopRequest:
    """Whether the process has received a signal to stop."""

    to_stop: bool = False
    number: int = signal.SIGTERM
    """Of the signal."""


@contextmanager
def capture_sigterm() -> Iterator[StopRequest]:
    """Inside the block SIGTERM, SIGHUP and the first SIGINT only set a flag.

    Only the main thread can handle signals; in others nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: Any) -> None:
        if number == signal.SIGINT and request.to_stop:
            raise KeyboardInterrupt
        request.to_stop, request.number = True, number

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_with_parent() -> Iterator[None]:
    """Inside the block the process gets SIGTERM when its parent ends, and is killed if it does not exit in time.

    For processes of torchrun: if that is killed, nobody ends them, and they may wait for each other.
    """
    parent, done = os.getppid(), threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            if done.wait(PARENT_SECONDS):
                return
        logger.error("the parent process is gone: this process exits")
        os.kill(os.getpid(), signal.SIGTERM)
        if not done.wait(ORPHAN_SECONDS):
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    try:
        yield
    finally:
        done.set()


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
