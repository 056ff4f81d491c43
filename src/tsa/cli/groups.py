"""Groups of commands, whose help is plain text: no markup and no emoji codes, so `[training]` stays as it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from tsa.cli.terminal.results import reporting

Command = TypeVar("Command", bound=Callable[..., None])

SECTIONS = {
    "From a log to a model": (
        "simulate",
        "init",
        "check",
        "prepare",
        "train",
        "evaluate",
        "compare",
        "run",
        "backtest",
        "tune",
    ),
    "Scores and what follows from them": ("score", "explain", "thresholds", "calibrate", "monitor"),
    "This installation": ("markets", "doctor"),
    "Bundles and the endpoint": (
        *("bundle", "compare-bundles", "registry", "retrain", "export", "history", "serve", "decisions"),
    ),
    "Other platforms": ("sagemaker",),
    "The predecessor of this package": ("legacy",),
}
"""The commands of `tsa` in the order of work."""


class SectionedGroup(TyperGroup):
    """A group that lists its commands with the complete first sentence of their help; `tsa` itself has the headings of SECTIONS."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands to the help. Those of no section come last."""
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        sections = SECTIONS if ctx.parent is None else {}  # groups have commands of the same names, such as export
        listed = {title: [name for name in names if name in shown] for title, names in sections.items()}
        rest = [name for name in shown if not any(name in names for names in listed.values())]
        if len(rest) == len(shown):
            listed = {"Commands": rest}
        elif rest:
            listed["Other commands"] = rest
        for title, names in listed.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, _first_sentence(shown[name].help or "")) for name in names])


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.split(". ")[0].removesuffix(".") + "." if paragraph else ""


class CommandGroup(typer.Typer):
    """A group whose commands have --json, unless they have no result."""

    def command(
        self, name: str | None = None, *, has_result: bool = True, **settings: Any
    ) -> Callable[[Command], Command]:
        """Decorator that makes a command of a function, which stays as it is."""

        def register(function: Command) -> Command:
            super(CommandGroup, self).command(name, **settings)(reporting(function) if has_result else function)
            return function

        return register


def make_group(help: str, **settings: Any) -> CommandGroup:
    """A group of commands: help as wide as the terminal, up to 120 columns."""
    return CommandGroup(
        cls=SectionedGroup,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=settings.pop("add_completion", False),
        context_settings={"max_content_width": 120},
        help=help,
        **settings,
    )
