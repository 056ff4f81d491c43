"""Where a server logs: to the terminal's error stream, one line an event. Payments' values are in none of them."""

from __future__ import annotations

import logging
import sys

from tsa.printable import LineFormatter

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_terminal(level: int = logging.INFO) -> None:
    """Log TSA's events from `level` on, and of the server beneath what is wrong alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT))
    for name, least in (("tsa", level), ("uvicorn", logging.ERROR)):
        found = logging.getLogger(name)
        found.setLevel(least)
        found.handlers[:] = [handler]
        found.propagate = False
