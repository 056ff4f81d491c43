"""SIGTERM: how a scheduler says that the machine is wanted back. It is noted here, and heeded between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Asked:
    """Whether the process was asked to stop."""

    to_stop: bool = False


@contextmanager
def noting_sigterm() -> Iterator[Asked]:
    """Inside the block SIGTERM only raises a flag. Outside of the main thread, which alone may, nothing is changed."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(*_: Any) -> None:
        asked.to_stop = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
