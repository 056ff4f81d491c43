"""Counts up at one place of a store, as several processes do at once. Imports little, so that it starts at once.

python -m support.count_up URL
"""

from __future__ import annotations

import sys

from tsa.serving.history.base import PAYMENTS, HistoryStore, WriteBatch
from tsa.serving.history.factory import open_history

PLACE = (PAYMENTS, "a")


def count_up(store: HistoryStore) -> None:
    """Add 100, one by one."""
    done = 0
    while done < 100:
        found = store.read([PLACE]).get(PLACE)
        number = 0 if found is None else int(found.data)
        done += store.commit(
            WriteBatch(expected_versions={PLACE: found and found.version}, puts={PLACE: str(number + 1).encode()})
        )


if __name__ == "__main__":
    count_up(open_history(sys.argv[1]))
