"""What is shown as it is written: help, names and values, with brackets and colons in them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from rich.table import Table

from tsa import terminal

WRITTEN = "[training] duplicate_id:id: [/] :smile: [bold]x[/bold]"


@pytest.mark.parametrize(
    ("command", "text"),
    [("monitor", "[monitoring]"), ("train", "[training] and"), ("simulate", "[default: 200000,")],
)
def test_help_keeps_what_stands_in_brackets(command: str, text: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "tsa", command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert text in " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize("to", ["console", "errors"])
def test_no_markup_and_no_pictures_in_names_and_values(
    to: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console: Any = getattr(terminal, to)
    monkeypatch.setattr(console, "width", 200)
    terminal.say(WRITTEN, console)
    table = Table("reason", WRITTEN, title=WRITTEN)
    table.add_row(WRITTEN, WRITTEN)
    console.print(table)
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count(WRITTEN) == 5, shown
