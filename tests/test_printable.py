"""Texts of others are escaped before they reach a terminal or a log."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from tsa.printable import LineFormatter, printable

HOSTILE = "a\n2026-01-01 ERROR forged\r\x1b[2J\u202egnp.exe\x00"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zoë 支払い 1.5 €", "Zoë 支払い 1.5 €"),
        ("a\nb\t\x1b[2J", r"a\nb\t\x1b[2J"),
        ("\u202e\u200b\x00\x85", r"\u202e\u200b\x00\x85"),
    ],
)
def test_control_and_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_characters_to_keep() -> None:
    assert printable("a\n\tb\r", "\n") == "a\n\\tb\\r"


def test_a_message_is_one_line_of_the_log_and_a_traceback_follows_it() -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("the id %s", HOSTILE)
    assert written.getvalue() == f"WARNING the id {printable(HOSTILE)}\n"
    try:
        raise ValueError("bad")
    except ValueError:
        logger.error("failed: %s", "a\nb", exc_info=sys.exc_info())
    first, *traceback = written.getvalue().splitlines()[1:]
    assert first == r"ERROR failed: a\nb"
    assert (traceback[0], traceback[-1]) == ("Traceback (most recent call last):", "ValueError: bad")
