"""The command line: parse, call, print. Nothing is computed here.

Exit codes: 0; 2 for bad usage or input (one paragraph, no traceback); 3 for an alert of `tsa monitor`; 1 for a bug; 130 when
interrupted; 143 when a training was asked to stop (SIGTERM) and saved a checkpoint.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from tsa.cli import bundles, data, evaluation, explaining, history, monitoring, scoring, serving, training, tuning
from tsa.cli.app import app
from tsa.errors import TSAError
from tsa.terminal import INTERRUPTED, errors, say

__all__ = [
    "app",
    "bundles",
    "data",
    "evaluation",
    "explaining",
    "history",
    "main",
    "monitoring",
    "scoring",
    "serving",
    "training",
    "tuning",
]

REFUSED = 2


def main() -> None:
    """Run the command line. What the user can act on becomes one paragraph and exit code 2; anything else is a bug."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _end_interrupted()
        raise
    except TSAError as error:
        _refuse(f"{type(error).__name__}: {error}")
    except OSError as error:
        path = error.filename2 or error.filename
        if path is None:
            raise
        _refuse(f"{path}: {error.strerror}")


def _end_interrupted() -> NoReturn:
    """End with 130 and nothing else: where the interrupt met code run from C, Python's own end is to kill itself by it."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _refuse(text: str) -> NoReturn:
    errors.print("error:", style="bold red", end=" ")
    say(text, errors)
    sys.exit(REFUSED)
