"""What a command prints: text for people, or with --json one JSON document; and what an interrupted one leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from tsa.cli.console import INTERRUPTED, console, errors, print_line

NOTHING = "nothing was written, and files from before are as they were"
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@dataclass
class _Outcome:
    """Of the command that runs."""

    document: Any = None
    remains: Callable[[], str] | str = NOTHING


_outcome = _Outcome()


def result(document: Any) -> None:
    """Set the document that the command prints with --json. Without it nothing happens."""
    _outcome.document = document


def remains(what: Callable[[], str] | str) -> None:
    """Say what is left if the command is interrupted from now on, as the end of a sentence."""
    _outcome.remains = what


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option --json. If it is interrupted, one line says what is left."""

    @wraps(command)
    def run(*arguments: Any, as_json: bool = False, **values: Any) -> None:
        _outcome.document, _outcome.remains = None, NOTHING
        console.quiet = as_json
        try:
            command(*arguments, **values)
        except (typer.Exit, SystemExit):  # with an exit code that says more
            _print_document(as_json)
            raise
        except KeyboardInterrupt:
            _end_interrupted()
        finally:
            console.quiet = False
        _print_document(as_json)

    if "as_json" in signature(command).parameters:
        return command  # it has the option itself
    hints = get_type_hints(command, include_extras=True)
    own = [
        p.replace(annotation=hints[p.name], kind=Parameter.KEYWORD_ONLY) for p in signature(command).parameters.values()
    ]
    own.append(Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson))
    run.__signature__ = signature(command).replace(parameters=own)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in own} | {"return": None}
    return run


def _print_document(as_json: bool) -> None:
    if not as_json or _outcome.document is None:
        return
    from tsa.evaluation.report.json_values import to_plain

    sys.stdout.write(json.dumps(to_plain(_outcome.document), indent=2, allow_nan=False) + "\n")


def _end_interrupted() -> NoReturn:
    what = _outcome.remains() if callable(_outcome.remains) else _outcome.remains
    print_line(f"interrupted: {what}", errors)
    sys.exit(INTERRUPTED)
