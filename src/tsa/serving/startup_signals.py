"""Handling of signals while a server starts, and of SIGHUP while it runs. Imports little: used before the slow imports."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tsa.signals import ending_in_order

MAX_SECONDS = 5.0
"""Time limit to exit when stopped during the start: nothing was accepted yet."""


class Hangup:
    """Handler of SIGHUP, which reloads files. A SIGHUP during the start takes effect once the server is up."""

    def __init__(self) -> None:
        self._asked, self._call = False, None  # type: tuple[bool, Callable[[], object] | None]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        if self._call is None:
            self._asked = True
        else:
            self._call()

    def tell(self, call: Callable[[], object] | None) -> None:
        """Set the function to call; call it at once if the signal has already come."""
        asked, self._asked, self._call = self._asked, False, call
        if asked and call is not None:
            call()


hangup = Hangup()
"""The handler of this process."""


@contextmanager
def starting() -> Iterator[None]:
    """Inside the block SIGTERM ends the start with exit code 0, and SIGHUP is stored for `hangup`, even under nohup.

    The server handles SIGTERM while it serves. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, hangup) if hasattr(signal, "SIGHUP") else None
    try:
        with ending_in_order(0, names=("SIGTERM",), within=MAX_SECONDS):
            yield
    finally:
        if before is not None:
            signal.signal(signal.SIGHUP, before)
