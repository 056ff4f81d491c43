"""Where a lone payment stands among the events of its key: as it does in company, whatever order those are in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tsa.data.online.histories import HistoryEvents, _index


def events(times: list[int]) -> HistoryEvents:
    n = len(times)
    return HistoryEvents(
        ids=tuple(f"e{at}" for at in range(n)),
        time_seconds=np.array(times, np.float64),
        categorical=np.zeros((n, 1), np.int32),
        numerical=np.zeros((n, 1), np.float32),
        tokens=np.zeros((n, 0), np.uint32),
        raw_numerical=np.zeros((n, 0), np.float32),
        label=np.zeros(n, np.int8),
        known_at_seconds=np.zeros(n),
    )


class MetricsSum(SimpleNamespace):
    """Payments, as far as an index looks at them."""

    def __len__(self) -> int:
        return len(self.ids)


TIMES = st.lists(st.integers(0, 12), max_size=6)


@given(TIMES, TIMES, st.integers(0, 12))
def test_a_lone_payment_stands_where_it_stands_in_company(times: list[int], others: list[int], now: int) -> None:
    past = {("terminal", "t"): events(others), ("customer", "c"): events(times)}
    before = np.concatenate([one.time_seconds for one in past.values()])

    def seen(ids: list[str], keys: tuple[str, ...]) -> list[int]:
        payments: Any = MetricsSum(ids=ids, keys={"customer": keys})
        found = _index("customer", payments, past, np.append(np.full(len(ids), float(now)), before))
        rows = found.order[found.start[0] : found.position[0] + 1] - len(ids)  # the payments come first
        return [int(row) for row in rows[:-1]]

    assert seen(["p"], ("c",)) == seen(["p", "q"], ("c", "another"))
