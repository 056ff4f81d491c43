"""When to write a checkpoint, and when to stop: by the clock of the first process, and as the system asks any of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tsa.training.signals import Asked


class Watch:
    """What each process wishes before a step, and what all of them then do after it."""

    def __init__(self, minutes: float, asked: Asked, *, keeps_time: bool) -> None:
        self.seconds, self.asked, self.keeps_time = 60.0 * minutes, asked, keeps_time
        self.saved()

    def saved(self) -> None:
        """A checkpoint was written: the clock starts again."""
        self._since = time.monotonic()

    @property
    def wishes(self) -> tuple[float, float]:
        """(to stop, to save), 1 where it is wished; the sums over the processes are what `heeded` takes."""
        due = self.keeps_time and time.monotonic() - self._since >= self.seconds
        return float(self.asked.to_stop), float(due)

    @staticmethod
    def heeded(sums: Sequence[float]) -> tuple[bool, bool]:
        """Whether to stop, and whether to save: the same in all processes."""
        stop, save = sums
        return stop > 0, stop > 0 or save > 0
