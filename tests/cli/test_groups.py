"""The help of each command: whole, as it is written, at two widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from tsa.cli import app
from tsa.cli.groups import SECTIONS, make_group

WIDTHS = (80, 120)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*path, name))


ALL = dict(commands(get_command(app)))


def shown(group: typer.Typer, path: tuple[str, ...], width: int) -> str:
    result = CliRunner().invoke(group, [*path, "--help"], env={"COLUMNS": str(width)})
    assert result.exit_code == 0, result.output
    return result.output


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "tsa")
def test_help_is_as_written(path: tuple[str, ...], width: int) -> None:
    text, command = shown(app, path, width), ALL[path]
    assert max(map(len, text.splitlines())) <= width
    assert "\\" not in text
    texts = [command.help, command.epilog, *(getattr(parameter, "help", None) for parameter in command.params)]
    missing = [one for one in texts if one and squeezed(one) not in squeezed(text)]
    assert not missing


@pytest.mark.parametrize("width", WIDTHS)
def test_brackets_and_colons_stay(width: int) -> None:
    written = "The tables [training] and [bold]x[/bold], duplicate_id:id: and :smile:"
    group = make_group(written)
    group.command("one", help=written, epilog=written)(lambda: None)

    @group.command("two", help="Two.")
    def two(option: str = typer.Option("", help=written)) -> None: ...

    for path, times in (((), 2), (("one",), 2), (("two",), 1)):
        assert squeezed(shown(group, path, width)).count(squeezed(written)) == times


def test_commands_are_listed_in_the_order_of_work() -> None:
    names = [name for section in SECTIONS.values() for name in section]
    assert sorted(names) == sorted(get_command(app).commands)  # type: ignore[attr-defined]
    text = shown(app, (), 120)
    places = [text.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)
    assert [title for title in SECTIONS if f"\n{title}:\n" in text] == list(SECTIONS)
    assert "Other commands" not in text


def test_a_group_lists_its_commands_under_one_heading() -> None:
    groups = [path for path, command in ALL.items() if path and getattr(command, "commands", None)]
    assert ("history",) in groups
    for path in groups:
        text = shown(app, path, 120)
        assert "\nCommands:\n" in text
        assert not [title for title in (*SECTIONS, "Other commands") if f"\n{title}:\n" in text]
