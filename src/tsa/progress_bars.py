"""Progress bars: on a terminal, and in a notebook. The command line and the estimator show them."""

from __future__ import annotations

import html
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from tsa.progress import Advance, Progress, silent

UPDATE_SECONDS = 0.5
"""How often a notebook is updated."""

logger = logging.getLogger("tsa")


@contextmanager
def terminal_bars(console: Console, *, shown: bool) -> Iterator[Progress]:
    """Bars on a terminal, each with the time to go; not shown, or not on a terminal, each step is only logged."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not shown or not console.is_terminal) as bars:

        @contextmanager
        def bar(what: str, total: int) -> Iterator[Advance]:
            logger.info("%s", what)
            task = bars.add_task(what, total=total if total > 1 else None)
            yield lambda done: bars.advance(task, done)
            bars.remove_task(task)

        yield bar


@contextmanager
def notebook_bars() -> Iterator[Progress]:
    """A line of a notebook that says what is done and how long it will take; it disappears at the end."""
    notebook: Any = import_module("IPython.display")  # Any: it may not be installed, and parts of it have no types
    line = notebook.display(notebook.HTML(""), display_id=True)

    @contextmanager
    def bar(what: str, total: int) -> Iterator[Advance]:
        logger.info("%s", what)
        began = shown = time.monotonic()
        done = 0

        def advance(more: int) -> None:
            nonlocal done, shown
            done += more
            if (now := time.monotonic()) - shown >= UPDATE_SECONDS:
                shown = now
                line.update(notebook.HTML(_progress_line(what, done, total, now - began)))

        line.update(notebook.HTML(_progress_line(what, 0, total, 0.0)))
        yield advance

    try:
        yield bar
    finally:
        line.update(notebook.HTML(""))


def _progress_line(what: str, done: int, total: int, seconds: float) -> str:
    """The state of a step as HTML: a bar once its length is known."""
    if total <= 1 or not done:
        return f"<small>{html.escape(what)} …</small>"
    left = max(0.0, seconds * (total - done) / done)
    bar = f"<progress value='{done}' max='{total}'></progress>"
    return f"<small>{html.escape(what)} {bar} {done:,} of {total:,}, {left:.0f} s to go</small>"


def in_notebook() -> bool:
    """Whether the code runs in a notebook."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return running is not None and running.__class__.__name__ == "ZMQInteractiveShell"


@contextmanager
def automatic_bars(*, shown: bool) -> Iterator[Progress]:
    """Bars where somebody sees them: in a notebook, or on a terminal."""
    if not shown:
        yield silent
    elif in_notebook():
        with notebook_bars() as bars:
            yield bars
    else:
        with terminal_bars(Console(stderr=True, markup=False, emoji=False), shown=True) as bars:
            yield bars
