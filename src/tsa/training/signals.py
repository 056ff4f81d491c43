"""SIGTERM, how a scheduler says that the machine is wanted back, and SIGHUP, of a terminal that was closed.

They are noted here, and heeded between two steps. SIGHUP that is ignored, as nohup does, stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class Asked:
    """Whether the process was asked to stop."""

    to_stop: bool = False


@contextmanager
def noting_sigterm() -> Iterator[Asked]:
    """Inside the block SIGTERM and SIGHUP only raise a flag. Outside of the main thread, which alone may, nothing is changed."""
    asked = Asked()
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
