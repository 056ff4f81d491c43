from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tsa.data.aggregates.axis import make_axis
from tsa.data.history import index_histories


@given(
    keys=st.lists(st.integers(-1, 3), min_size=1, max_size=30),
    length=st.one_of(st.none(), st.integers(2, 5)),
    data=st.data(),
)
def test_asked_payments_see_the_last_events_of_their_key(
    keys: list[int], length: int | None, data: st.DataObject
) -> None:
    index = index_histories(np.array(keys))
    n = len(keys)
    asked = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
    rows = np.array(sorted(asked, key=lambda row: index.position[row]))
    times = np.sort(np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)), np.float64))
    axis = make_axis([index], [rows], length, times)
    assert (np.diff(axis.at) > 0).all()
    assert (np.diff(axis.low) >= 0).all()
    windows = np.array([1.0, 4.0])
    starts = axis.window_starts(windows)
    for number, row in enumerate(rows.tolist()):
        past = [at for at in range(row) if keys[at] == keys[row] >= 0][-((length or n + 1) - 1) :]
        assert axis.event[axis.low[number] : axis.at[number] + 1].tolist() == [*past, row]
        for window, start in zip(windows, starts[number], strict=True):
            inside = [at for at in past if times[at] > times[row] - window]
            assert axis.event[start : axis.at[number]].tolist() == inside
    for place, event in enumerate(axis.event.tolist()):
        same = [number for number, row in enumerate(rows.tolist()) if axis.block[axis.at[number]] == axis.block[place]]
        late = [number for number in same if times[rows[number]] >= times[event] + 2]
        first = int(axis.first_asked_since(np.array([place]), times[[event]] + 2)[0])
        assert first == late[0] if late else first == same[-1] + 1
        after = [number for number, at in enumerate(axis.at.tolist()) if at > place]
        assert axis.first_after[place] == (after[0] if after else len(rows))
        blind = [number for number, low in enumerate(axis.low.tolist()) if low > place]
        assert axis.last_before[place] == (blind[0] if blind else len(rows))


def test_histories_lie_one_after_the_other() -> None:
    first, second = index_histories(np.array([0, 1, 0])), index_histories(np.array([5, 5, 5]))
    rows = np.array([2])
    axis = make_axis([first, second], [rows, rows], None, np.arange(3.0))
    assert axis.event.tolist() == [0, 2, 0, 1, 2]
    assert axis.at.tolist() == [1, 4]
    assert axis.low.tolist() == [0, 2]
    assert axis.block.tolist() == [0, 0, 1, 1, 1]


def test_times_that_fall_count_as_the_time_before() -> None:
    """As in rows that carry their own history in any order."""
    index = index_histories(np.array([0, 0, 0, 1, 1]))
    axis = make_axis([index], [np.array([2, 4])], None, np.array([5.0, 3.0, 6.0, 1.0, 2.0]))
    assert axis.time_seconds.tolist() == [5.0, 5.0, 6.0, 1.0, 2.0]
    assert axis.window_starts(np.array([2.0])).tolist() == [[0], [3]]
