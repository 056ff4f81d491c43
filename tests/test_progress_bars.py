"""Progress on terminals and in notebooks: what is done, of how much, and the time to go."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from tsa.progress_bars import _progress_line, automatic_bars, in_notebook, terminal_bars


def test_a_terminal_sees_the_time_to_go() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with terminal_bars(console, shown=True) as bars, bars("scoring [rows]", 10) as advance:
        advance(4)
        time.sleep(0.3)  # the next picture of the bars
    assert "scoring [rows]" in file.getvalue()
    assert "4/10" in file.getvalue()


@pytest.mark.parametrize(("terminal", "shown"), [(False, True), (True, False)])
def test_no_bar_in_a_pipe_or_if_not_wanted(terminal: bool, shown: bool) -> None:
    file = io.StringIO()
    with (
        terminal_bars(Console(file=file, force_terminal=terminal), shown=shown) as bars,
        bars("scoring", 10) as advance,
    ):
        advance(4)
    assert "scoring" not in file.getvalue()


def test_a_line_of_a_notebook() -> None:
    assert not in_notebook()
    assert _progress_line("a < b", 0, 10, 0.0) == "<small>a &lt; b …</small>"
    line = _progress_line("scoring", 2_000, 10_000, 3.0)
    assert "2,000 of 10,000, 12 s to go" in line
    assert "<progress value='2000' max='10000'>" in line


def test_nothing_is_shown_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with automatic_bars(shown=False) as bars, bars("scoring", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
