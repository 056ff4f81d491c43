"""Write docs/reference/commands.md from the help of the commands: python docs/make_commands.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from tsa.cli import app

PAGE = Path(__file__).parent / "reference" / "commands.md"
WIDTH = 98
HEAD = """# Commands

Written by docs/make_commands.py from the help of the commands. `--json` prints one JSON document on
standard output; messages and progress go to standard error. `NO_COLOR` and `COLUMNS` are followed.
The legacy TSA system is the in-house predecessor of this project.

| Exit code | |
|---|---|
| 0 | done |
| 1 | an error of the program |
| 2 | bad usage or input, or something is missing |
| 3 | `tsa monitor` raised an alert |
| 130 | interrupted; one line says what is left |
| 143, 129 | ended by SIGTERM or SIGHUP, in order |
"""


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path
    for name, sub in (below or {}).items():
        yield from paths(sub, (*path, name))


def text() -> str:
    """The page."""
    runner, parts = CliRunner(), [HEAD]
    for path in sorted(paths(get_command(app))):
        shown = runner.invoke(app, [*path, "--help"], env={"COLUMNS": str(WIDTH), "NO_COLOR": "1"}, prog_name="tsa")
        lines = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
        parts.append(f"## tsa {' '.join(path)}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
