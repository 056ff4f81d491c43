"""The batcher: greedy batches, bounds, deadlines, and an end in which nothing accepted is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.serving.errors import BatcherClosedError, DeadlineExceededError, QueueFullError
from tsa.serving.scoring.batcher import Batcher


class Doubling:
    """Doubles numbers, once it is let; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.free.wait(10)
        return [2 * item for item in items]


async def held(batcher: Batcher[int, int], work: Doubling) -> asyncio.Task[list[int]]:
    """A batch that the thread works on until `work.free` is set."""
    work.free.clear()
    task = asyncio.create_task(batcher.submit([0]))
    while not work.batches:
        await asyncio.sleep(0.001)
    return task


def test_what_waits_becomes_one_batch() -> None:
    work = Doubling()
    batcher = Batcher(work, max_batch=4)

    async def main() -> None:
        first = await held(batcher, work)
        rest = [asyncio.create_task(batcher.submit(items)) for items in ([1], [2, 3], [4, 5], [6])]
        await asyncio.sleep(0.01)
        assert batcher.waiting == 6
        work.free.set()
        assert await asyncio.gather(first, *rest) == [[0], [2], [4, 6], [8, 10], [12]]

    asyncio.run(main())
    batcher.close()
    assert work.batches == [[0], [1, 2, 3], [4, 5, 6]]


def test_a_list_longer_than_a_batch_is_one_of_its_own() -> None:
    work = Doubling()
    batcher = Batcher(work, max_batch=2, max_queue=3)
    assert asyncio.run(batcher.submit(list(range(10)))) == [2 * item for item in range(10)]
    batcher.close()
    assert work.batches == [list(range(10))]


def test_past_the_bound_more_is_refused_at_once() -> None:
    work = Doubling()
    batcher = Batcher(work, max_queue=2)

    async def main() -> None:
        first = await held(batcher, work)
        waiting = asyncio.create_task(batcher.submit([1, 2]))
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFullError) as full:
            await batcher.submit([3])
        assert full.value.retry_seconds >= 1
        with pytest.raises(QueueFullError):
            batcher.ensure_capacity()
        work.free.set()
        await asyncio.gather(first, waiting)
        assert await batcher.submit([3]) == [6]
        batcher.ensure_capacity()

    asyncio.run(main())
    batcher.close()


def test_once_a_batch_has_waited_long_more_is_refused() -> None:
    work = Doubling()
    batcher = Batcher(work, max_batch=2, max_queue=100, queue_seconds=0.02)

    async def main() -> None:
        first = await held(batcher, work)
        waiting = [asyncio.create_task(batcher.submit([1]))]
        await asyncio.sleep(0.05)  # long, but no batch waits
        batcher.ensure_capacity()
        waiting += [asyncio.create_task(batcher.submit([2]))]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            batcher.ensure_capacity()
        with pytest.raises(QueueFullError):
            await batcher.submit([3])
        assert await batcher.submit([]) == []
        work.free.set()
        await asyncio.gather(first, *waiting)
        assert await batcher.submit([3]) == [6]

    asyncio.run(main())
    batcher.close()
    assert work.batches == [[0], [1, 2], [3]]


def test_what_comes_too_late_is_not_worked_on() -> None:
    work = Doubling()
    batcher = Batcher(work)

    async def main() -> None:
        first = await held(batcher, work)
        late = asyncio.create_task(batcher.submit([1], time.monotonic() + 0.01))
        in_time = asyncio.create_task(batcher.submit([2], time.monotonic() + 60))
        with pytest.raises(DeadlineExceededError):  # while the thread is still busy
            await late
        work.free.set()
        assert await in_time == [4]
        await first

    asyncio.run(main())
    batcher.close()
    assert work.batches == [[0], [2]]


def test_a_caller_that_went_away_costs_no_work() -> None:
    work = Doubling()
    batcher = Batcher(work)

    async def main() -> None:
        first = await held(batcher, work)
        gone = asyncio.create_task(batcher.submit([1]))
        await asyncio.sleep(0.01)
        gone.cancel()
        work.free.set()
        await first
        assert await batcher.submit([2]) == [4]

    asyncio.run(main())
    batcher.close()
    assert work.batches == [[0], [2]]


def test_an_error_reaches_all_of_its_batch_and_no_other() -> None:
    def work(items: Sequence[int]) -> list[int]:
        return [12 // item for item in items]

    batcher = Batcher(work)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await batcher.submit([0])
        assert await batcher.submit([3]) == [4]

    asyncio.run(main())
    batcher.close()


def test_calls_stand_between_batches_in_their_turn() -> None:
    work = Doubling()
    batcher = Batcher(work)
    seen: list[int] = []

    async def main() -> None:
        first = await held(batcher, work)
        before = asyncio.create_task(batcher.submit([1]))
        await asyncio.sleep(0.01)
        call = asyncio.create_task(batcher.run_between_batches(lambda: seen.append(len(work.batches)) or "done"))
        await asyncio.sleep(0.01)
        after = asyncio.create_task(batcher.submit([2]))
        await asyncio.sleep(0.01)
        work.free.set()
        await asyncio.gather(first, before, after)
        assert await call == "done"
        with pytest.raises(ValueError, match="no"):
            await batcher.run_between_batches(lambda: int("no"))

    asyncio.run(main())
    batcher.close()
    assert seen == [2]


def test_calls_that_clients_ask_for_take_room_and_have_a_deadline() -> None:
    work = Doubling()
    batcher = Batcher(work, max_queue=2)
    done: list[int] = []

    async def main() -> None:
        first = await held(batcher, work)
        late = asyncio.create_task(batcher.run_with_deadline(lambda: done.append(1), time.monotonic() + 0.02))
        await asyncio.sleep(0)
        waits = asyncio.create_task(batcher.run_with_deadline(lambda: done.append(2), time.monotonic() + 60))
        await asyncio.sleep(0)
        assert batcher.waiting == 2
        with pytest.raises(QueueFullError):
            await batcher.run_with_deadline(lambda: done.append(3), time.monotonic() + 60)
        with pytest.raises(DeadlineExceededError):
            await late
        work.free.set()
        await asyncio.gather(first, waits)
        assert batcher.waiting == 0

    asyncio.run(main())
    batcher.close()
    assert done == [2], "nobody waits for the first any more"


def test_when_closed_it_finishes_what_waits_and_takes_nothing_more() -> None:
    work = Doubling()
    batcher = Batcher(work)

    async def main() -> None:
        first = await held(batcher, work)
        waiting = asyncio.create_task(batcher.submit([1]))
        await asyncio.sleep(0.01)
        closing = asyncio.get_running_loop().run_in_executor(None, batcher.close)
        await asyncio.sleep(0.05)
        with pytest.raises(BatcherClosedError):
            await batcher.submit([2])
        work.free.set()
        await closing
        assert await asyncio.gather(first, waiting) == [[0], [2]]

    asyncio.run(main())


def test_it_waits_for_more_only_when_told_to() -> None:
    work = Doubling()
    batcher = Batcher(work, max_batch=3, wait_seconds=5.0)

    async def main() -> None:
        begun = time.monotonic()
        tasks = []
        for item in range(3):
            tasks.append(asyncio.create_task(batcher.submit([item])))
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
        assert time.monotonic() - begun < 4

    asyncio.run(main())
    batcher.close()
    assert work.batches == [[0, 1, 2]]


@settings(max_examples=30, deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(-5, 5), max_size=6), max_size=20),
    max_batch=st.integers(1, 8),
)
def test_everyone_gets_their_own(lists: list[list[int]], max_batch: int) -> None:
    work = Doubling()
    batcher = Batcher(work, max_batch=max_batch, max_queue=1000)

    async def main() -> list[list[int]]:
        return await asyncio.gather(*(batcher.submit(items) for items in lists))

    assert asyncio.run(main()) == [[2 * item for item in items] for items in lists]
    batcher.close()
    whole = [item for batch in work.batches for item in batch]
    assert whole == [item for items in lists for item in items]
    assert all(len(batch) <= max_batch or batch in lists for batch in work.batches)
