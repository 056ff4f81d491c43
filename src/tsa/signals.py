"""Handle SIGTERM and SIGHUP: temporary files are removed, and the exit code names the signal.

Otherwise Python is killed in the middle of a file, and the first process of a container ignores the signals. Imports
nothing of TSA, so that it is active before slow imports begin.
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


_ending: int | None = None
"""The exit code that a signal asked for."""


@contextmanager
def ending_in_order(code: int | None = None, *, names: tuple[str, ...] = NAMES, within: float = 0.0) -> Iterator[None]:
    """Inside the block the signals raise SystemExit; a second one ends the process at once.

    Only the main thread can change signal handlers; in other threads nothing is changed.

    Args:
        code: The exit code; None for 128 plus the number of the signal, as shells do.
        names: Which signals. A signal that is ignored, as SIGHUP under nohup, stays ignored.
        within: The process is ended after this many seconds, finished or not. 0: no limit.
    """
    global _ending
    before = end_on_signals(code, names=names, within=within)
    try:
        yield
    except Exception:
        if _ending is None:
            raise
        raise SystemExit(_ending) from None  # a library may turn SystemExit into an error of its own, during an import
    finally:
        _ending = None
        for number, handler in before.items():
            signal.signal(number, handler)


def end_on_signals(
    code: int | None = None, *, names: tuple[str, ...] = NAMES, within: float = 0.0, at_once: bool = False
) -> dict[signal.Signals, signal._HANDLER]:
    """As `ending_in_order`, for the rest of the process. Returns the previous handlers.

    Signals that whoever started the process has blocked, so that none is lost before this call, are unblocked.

    at_once: end without cleaning up. For imports: an exception there may come out of a library as another one.
    """
    begun = False

    def end(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal begun
        global _ending
        _ending = left = 128 + number if code is None else code
        if begun or at_once:
            os._exit(left)
        begun = True
        if within:
            threading.Thread(target=_end_after, args=(within, left), daemon=True).start()
        raise SystemExit(left)

    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [number for name in names if (number := getattr(signal.Signals, name, None)) is not None]
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before: dict[signal.Signals, signal._HANDLER] = {
        number: signal.signal(number, end) or signal.SIG_DFL for number in handled
    }
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
    return before


def _end_after(seconds: float, code: int) -> None:
    time.sleep(seconds)
    os._exit(code)
