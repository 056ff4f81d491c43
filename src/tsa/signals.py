"""SIGTERM and SIGHUP end a program in order: what it was writing is removed, and its exit code says what ended it.

Without this, Python is killed in the midst of a file; and the first process of a container does not hear the signals at
all. Imports nothing of TSA: it is to be in place before the long imports begin.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

NAMES = ("SIGTERM", "SIGHUP")


@contextmanager
def ending_in_order(code: int | None = None, *, names: tuple[str, ...] = NAMES, within: float = 0.0) -> Iterator[None]:
    """Inside the block the signals raise SystemExit; a second one ends the process at once.

    Args:
        code: The exit code; None for 128 and the number of the signal, as shells write it.
        names: Which signals. One that is ignored, as nohup does with SIGHUP, stays so.
        within: After so many seconds the process is ended however far it has come; 0: it takes the time it needs.

    Outside of the main thread, which alone may change this, nothing is changed.
    """
    before = end_on_signals(code, names=names, within=within)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_on_signals(
    code: int | None = None, *, names: tuple[str, ...] = NAMES, within: float = 0.0
) -> dict[signal.Signals, signal._HANDLER]:
    """As `ending_in_order`, for the rest of the process. Returns the handlers that there were before."""
    begun = False

    def end(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal begun
        left = 128 + number if code is None else code
        if begun:
            os._exit(left)
        begun = True
        if within:
            threading.Thread(target=_end_after, args=(within, left), daemon=True).start()
        raise SystemExit(left)

    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [found for name in names if (found := getattr(signal.Signals, name, None)) is not None]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, end) or signal.SIG_DFL for number in heard}


def _end_after(seconds: float, code: int) -> None:
    time.sleep(seconds)
    os._exit(code)
