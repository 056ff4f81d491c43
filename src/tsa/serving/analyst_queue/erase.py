"""Erase a customer's data, and old entries, from a log of decisions and from the analysts' queue in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tsa.serving.analyst_queue.case_database import FILE, CaseDatabase
from tsa.serving.decisions.erase import erase_key
from tsa.serving.decisions.parquet_files import delete_before


def erase_decisions(folder: Path, key: tuple[str, str]) -> int:
    """`erase_key`, and the same for the cases of the queue, if there is one. Returns the number of payments."""
    count = erase_key(folder, key)  # first, since a server that starts adds cases from the log
    with _cases(folder) as database:
        return count if database is None else max(count, database.erase(*key))


def prune_decisions(folder: Path, moment: float) -> int:
    """Delete the days of a log that ended before `moment`, in epoch seconds, and older cases. Returns how many files."""
    count = delete_before(folder, moment)
    with _cases(folder) as database:
        if database is not None:
            database.delete_before(moment)
    return count


@contextmanager
def _cases(folder: Path) -> Iterator[CaseDatabase | None]:
    """The cases of the queue; None if there is no queue."""
    if not (folder / FILE).exists():
        yield None
        return
    with closing(CaseDatabase(folder)) as database:
        yield database
