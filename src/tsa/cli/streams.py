"""What a command prints, where the terminal is not UTF-8, the disk behind it is full, or nobody reads it any more."""

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
"""Characters of TSA's own texts, as they are written where there are none of them."""
PLAINLY = "tsa.plainly"


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write what cannot be encoded as ASCII: a sign of the same sense, or the number of the character."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    return "-" if "─" <= character <= "╿" else character.encode("ascii", "backslashreplace").decode()


codecs.register_error(PLAINLY, _plainly)


def print_any_character() -> None:
    """Let both streams take every character: a value or a sign that the terminal does not know ends no command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what a test or a notebook puts there may have none
        if reconfigure is not None:
            reconfigure(errors=PLAINLY)


def flush_or_drop(stream: TextIO) -> OSError | None:
    """Write out what was printed; why that failed, if it did: what is left is then dropped, and Python says nothing more."""
    try:
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    except ValueError:  # it was closed
        return None
    return None
