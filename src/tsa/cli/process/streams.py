"""Robust output to terminals that are not UTF-8, full disks and closed pipes."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from typing import TextIO

PLAIN = {
    "–": "-",
    "—": "-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "×": "x",
    "→": "->",
    "·": "*",
    "•": "*",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}
"""ASCII replacements for characters of TSA's texts."""
PLAINLY = "tsa.plainly"


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encoding error handler: replace a character by a similar ASCII text, or by its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    return "-" if "─" <= character <= "╿" else character.encode("ascii", "backslashreplace").decode()


codecs.register_error(PLAINLY, _plainly)


def open_closed_streams() -> None:
    """Open standard streams that the caller has closed (`>&-`): else the next file that is opened would get their output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def print_any_character() -> None:
    """Let both streams accept every character, so that none that the terminal does not support ends a command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # streams of tests and notebooks may have none
        if reconfigure is not None:
            reconfigure(errors=PLAINLY)


def flush_or_drop(stream: TextIO) -> OSError | None:
    """Flush a stream; return the error if that failed. The rest is then dropped, so that Python prints no further error."""
    try:
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    except ValueError:  # closed
        return None
    return None
