"""Escape control and invisible characters in foreign texts before they reach a terminal or a log."""

from __future__ import annotations

import logging


def printable(text: str, keep: str = "") -> str:
    r"""The text with each unprintable character escaped, such as \n or \x1b, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii") for one in text
    )


class LineFormatter(logging.Formatter):
    """Formats a message as one line, whatever it contains. A traceback follows on separate lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 the name that logging calls
        """As `logging.Formatter`."""
        record.message = printable(record.message)
        return super().formatMessage(record)
