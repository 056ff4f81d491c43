"""Send records to a tracker from a separate thread, so that a run neither fails nor waits because of a tracker.

Records that could not be sent are retried.
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

RETRY_SECONDS = 15.0
"""How long after a failure a record is sent again, unless a new one comes before."""
CLOSE_SECONDS, CLOSE_TRIES, CLOSE_PAUSE_SECONDS = 30.0, 3, 1.0
"""At the end of a run: how long to wait for the tracker, the number of tries, and the pause between them."""
SHOWN = 200
USER = re.compile(r"://[^/\s@]+@")
"""A user name and password in an address."""


class RecordQueue:
    """Accepts records without waiting, and sends them in order."""

    def __init__(self, name: str, write: Callable[[Any], object], end: Callable[[bool], object]) -> None:
        """Start the thread.

        Args:
            name: The tracker's name, for the log.
            write: Sends a record.
            end: Called at the end with whether the run succeeded.
        """
        self.name, self._write, self._end = name, write, end
        self._pending: deque[Any] = deque()
        self._changed = threading.Condition()
        self._closing, self._well, self._failing = False, False, False
        self._thread = threading.Thread(target=self._run, name=f"tsa-{name}", daemon=True)
        self._thread.start()

    def __call__(self, record: Any) -> None:
        """Add a record. Never waits, never raises."""
        with self._changed:
            self._pending.append(record)
            self._changed.notify()

    def close(self, well: bool) -> None:
        """Send the remaining records, for at most CLOSE_SECONDS. well: whether the run succeeded."""
        with self._changed:
            self._closing, self._well = True, well
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s does not answer; the run continues without it", self.name)
        if unsent := len(self._pending):
            logger.warning(
                "%s did not receive the records of the last %d epochs; metrics.jsonl has them", self.name, unsent
            )

    def _run(self) -> None:
        tries = 0
        while (record := self._next()) is not None:
            if self._attempt(lambda record=record: self._write(record)):  # type: ignore[misc]
                self._pending.popleft()
            elif not self._closing:
                self._pause()
            elif (tries := tries + 1) < CLOSE_TRIES:
                time.sleep(CLOSE_PAUSE_SECONDS)
            else:
                break
        if self._closing and not self._pending:
            self._attempt(lambda: self._end(self._well))

    def _next(self) -> Any:
        """The first pending record, which is removed once it was sent; None at the end."""
        with self._changed:
            while not self._pending and not self._closing:
                self._changed.wait()
            return self._pending[0] if self._pending else None

    def _pause(self) -> None:
        """Wait for a new record or the time to retry."""
        end, known = time.monotonic() + RETRY_SECONDS, len(self._pending)
        with self._changed:
            while not self._closing and len(self._pending) == known and (remaining := end - time.monotonic()) > 0:
                self._changed.wait(remaining)

    def _attempt(self, call: Callable[[], object]) -> bool:
        """Whether the call succeeded. Changes are logged."""
        try:
            call()
        except Exception as error:  # an error of a tracker must not stop training
            if not self._failing:
                reason = error_text(error)
                logger.warning(
                    "%s does not accept records: %s: %s; training continues, they are sent later",
                    *(self.name, type(error).__name__, reason),
                )
            self._failing = True
            return False
        if self._failing:
            logger.warning("%s accepts records again", self.name)
        self._failing = False
        return True


def error_text(error: Exception) -> str:
    """The text of an error in one short line, without passwords."""
    return brief(USER.sub("://", str(error)), SHOWN)
