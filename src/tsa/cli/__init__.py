"""The command line.

Exit codes: 0; 1 for a bug; 2 for bad usage or input, or missing resources (one paragraph, no traceback); 3 for an
alert of `tsa monitor`; 10 for a bundle of `tsa retrain` that the gate does not let pass; 130 when interrupted; 143
after SIGTERM and 129 after SIGHUP, once incomplete files are removed (a training saves a checkpoint and ends with 143
after either).
"""

from __future__ import annotations

import os
import signal
import sys

from tsa.cli.process.streams import open_closed_streams
from tsa.cli.process.title import strike_out_passwords
from tsa.signals import end_on_signals

# before the imports, which take seconds
if os.getpid() == 1:  # the first process of a container hears a signal only once it asks to
    end_on_signals(at_once=True)
if os.path.basename(sys.argv[0]) in ("tsa", "__main__.py"):
    strike_out_passwords()
    open_closed_streams()
    _before_imports = end_on_signals(names=("SIGINT",), at_once=True)  # Ctrl-C shows no traceback of an import
else:
    _before_imports = {}

import contextlib
import errno
import logging
from typing import NoReturn

from tsa.cli import (
    backtest,
    bundle,
    data,
    doctor,
    evaluate,
    explain,
    history,
    legacy,
    market,
    markets,
    monitor,
    registry,
    score,
    serve,
    train,
    tune,
)
from tsa.cli.app import app
from tsa.cli.console import INTERRUPTED, errors, print_line
from tsa.cli.decisions import commands as decisions
from tsa.cli.lifecycle import retrain
from tsa.cli.platforms import sagemaker
from tsa.cli.process.streams import flush_or_drop, print_any_character
from tsa.cli.terminal.advice import next_step
from tsa.errors import TSAError
from tsa.signals import ending_in_order
from tsa.system_errors import resource_problem

for _number, _handler in _before_imports.items():
    signal.signal(_number, _handler)

__all__ = [
    "app",
    "backtest",
    "bundle",
    "data",
    "decisions",
    "doctor",
    "evaluate",
    "explain",
    "history",
    "legacy",
    "main",
    "market",
    "markets",
    "monitor",
    "registry",
    "retrain",
    "sagemaker",
    "score",
    "serve",
    "train",
    "tune",
]

REFUSED = 2


def main() -> None:
    """Run the command line. An error that the user can fix becomes one paragraph and exit code 2; others are bugs."""
    print_any_character()
    strike_out_passwords()
    with ending_in_order():
        try:
            _run()
        except SystemExit as end:
            if end.code == INTERRUPTED:
                _end_interrupted()
            raise
        except TSAError as error:
            _refuse(f"{type(error).__name__}: {error}", error)
        except Exception as error:
            if (text := resource_problem(error) or _of_file(error)) is None:
                raise
            _refuse(text, error)


def _run() -> None:
    """Run the command and flush its output, because a full disk may only be reported then."""
    try:
        app()
    finally:
        if (error := flush_or_drop(sys.stdout)) is not None:
            if error.errno == errno.EPIPE:
                sys.exit(1)
            raise OSError(error.errno, error.strerror, "standard output") from None


def _has_lost_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _of_file(error: Exception) -> str | None:
    """The message for an error of a file, or a program, that the user named; None for other errors."""
    if isinstance(error, FileNotFoundError) and _has_lost_folder():
        return "the current folder was removed: change to another one"
    if not isinstance(error, OSError) or (path := error.filename2 or error.filename) is None:
        return None
    return f"{path}: {error.strerror}"


def _end_interrupted() -> NoReturn:
    """Exit with 130 and no output: after an interrupt in code called from C, Python would kill itself by the signal."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _refuse(text: str, error: Exception) -> NoReturn:
    with contextlib.suppress(OSError):  # the terminal was closed: only the exit code reports the error
        errors.print("error:", style="bold red", end=" ")
        print_line(text, errors)
        if (step := next_step(error, text, sys.argv[1:])) is not None:
            print_line(f"next: {step}", errors)
    sys.exit(REFUSED)
