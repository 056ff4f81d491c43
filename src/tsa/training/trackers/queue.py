"""Records on their way to a tracker, in a thread of its own: a run neither fails nor waits because of a tracker.

What a tracker does not take is kept and tried again. It knows no tracker.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tsa.text import brief

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 15.0
"""After a record was not taken: until it is tried again, should no new one come before."""
LAST_SECONDS, LAST_TRIES, LAST_PAUSE_SECONDS = 30.0, 3, 1.0
"""How long the end of a run waits for a tracker, how often it tries, and what it waits between two tries."""
SHOWN = 200
USER = re.compile(r"://[^/\s@]+@")
"""A name and a password in an address."""


class Feed:
    """Takes records at once, and hands them on in their order."""

    def __init__(self, name: str, write: Callable[[Any], object], end: Callable[[bool], object]) -> None:
        """name: of the tracker, for the log. write: hands a record on. end: is told whether the run went well."""
        self.name, self._write, self._end = name, write, end
        self._waiting: deque[Any] = deque()
        self._changed = threading.Condition()
        self._closing, self._well, self._failing = False, False, False
        self._thread = threading.Thread(target=self._run, name=f"tsa-{name}", daemon=True)
        self._thread.start()

    def __call__(self, record: Any) -> None:
        """Take a record. Never waits, never raises."""
        with self._changed:
            self._waiting.append(record)
            self._changed.notify()

    def close(self, well: bool) -> None:
        """Hand on what is left, for at most LAST_SECONDS. well: how the run ended."""
        with self._changed:
            self._closing, self._well = True, well
            self._changed.notify()
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s does not answer: the run goes on without it", self.name)
        if left := len(self._waiting):
            logger.warning("%s lacks the records of the last %d epochs: metrics.jsonl has them", self.name, left)

    def _run(self) -> None:
        tries = 0
        while (record := self._next()) is not None:
            if self._tried(lambda record=record: self._write(record)):  # type: ignore[misc]
                self._waiting.popleft()
            elif not self._closing:
                self._pause()
            elif (tries := tries + 1) < LAST_TRIES:
                time.sleep(LAST_PAUSE_SECONDS)
            else:
                break
        if self._closing and not self._waiting:
            self._tried(lambda: self._end(self._well))

    def _next(self) -> Any:
        """The first record that waits, which stays there until it was taken; None at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            return self._waiting[0] if self._waiting else None

    def _pause(self) -> None:
        """Until there is something new, or it is time to try again."""
        end, known = time.monotonic() + AGAIN_SECONDS, len(self._waiting)
        with self._changed:
            while not self._closing and len(self._waiting) == known and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _tried(self, call: Callable[[], object]) -> bool:
        """Whether it went well. The log says so when that changes."""
        try:
            call()
        except Exception as error:  # whatever a tracker does, training goes on
            if not self._failing:
                said = shown(error)
                logger.warning(
                    "%s does not take records: %s: %s; training goes on, they are kept and sent later",
                    *(self.name, type(error).__name__, said),
                )
            self._failing = True
            return False
        if self._failing:
            logger.warning("%s takes records again", self.name)
        self._failing = False
        return True


def shown(error: Exception) -> str:
    """The text of an error in one line, short, and without passwords of addresses."""
    return brief(USER.sub("://", str(error)), SHOWN)
