"""Texts from elsewhere on a terminal or in a log: what would end a line, move the cursor or hide itself is escaped."""

from __future__ import annotations

import logging


def printable(text: str, keep: str = "") -> str:
    """The text with each character that is not to be seen spelled out, such as \\n or \\x1b; those in `keep` stay."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii") for one in text
    )


class LineFormatter(logging.Formatter):
    """Formats a message as one line, whatever is in it; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 the name that logging calls
        """As `logging.Formatter`."""
        record.message = printable(record.message)
        return super().formatMessage(record)
