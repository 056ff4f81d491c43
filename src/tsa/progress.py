"""Progress reports of long work. The command line shows bars; by default nothing is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""progress(what, total) opens a bar and yields a function that advances it."""


@contextmanager
def silent(what: str, total: int) -> Iterator[Advance]:
    """Draw nothing."""
    yield lambda done: None
