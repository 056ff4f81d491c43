"""How long work tells what it has done. The command line draws bars; everything else stays silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""Says that so many more units are done."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""progress(what, total) opens a bar and yields the call that advances it."""


@contextmanager
def silent(what: str, total: int) -> Iterator[Advance]:
    """Draw nothing."""
    yield lambda done: None
