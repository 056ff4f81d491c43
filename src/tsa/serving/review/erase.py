"""Erase a customer's data, and old entries, from a log of decisions and from the analysts' queue in its folder."""

from __future__ import annotations

from pathlib import Path

from tsa.serving.decisions.erase import erase_key
from tsa.serving.decisions.files import delete_before
from tsa.serving.review.case_database import FILE, CaseDatabase


def erase_decisions(folder: Path, key: tuple[str, str]) -> int:
    """Delete all entries and cases of the payments of a key. Safe to repeat, also while servers write to the log.

    Args:
        folder: The folder of the log.
        key: History name and key, as recorded: pseudonymised where the market asks for it.

    Returns:
        The number of payments.

    Raises:
        ConfigError: The folder contains no log, or a process does not convert its journal.
    """
    count = erase_key(folder, key)  # first, since a server that starts adds cases from the log
    if (folder / FILE).exists():
        database = CaseDatabase(folder)
        try:
            count = max(count, database.erase(*key))
        finally:
            database.close()
    return count


def prune_decisions(folder: Path, moment: float) -> int:
    """Delete the days of a log that ended before `moment`, in epoch seconds, and older cases. Returns how many files."""
    count = delete_before(folder, moment)
    if (folder / FILE).exists():
        database = CaseDatabase(folder)
        try:
            database.delete_before(moment)
        finally:
            database.close()
    return count
