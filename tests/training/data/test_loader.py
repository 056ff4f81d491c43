"""Batches: each payment of an epoch once, split without loss, no wider than needed, the same however they are gathered."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.easy_log import drawn, settings
from tsa.data.history import history_lengths
from tsa.data.store.store import EventStore
from tsa.errors import TrainingError
from tsa.model.collate import gather_batch
from tsa.training.config import TrainingConfig
from tsa.training.data.loader import EpochLoader, Microbatch, bucketed
from tsa.training.distributed import DistributedContext

CPU = torch.device("cpu")
seeds = st.integers(0, 999)


def steps(store: EventStore, config: TrainingConfig, rank: int = 0, count: int = 1, after: int = 0) -> list[Any]:
    loader = EpochLoader(store, config, DistributedContext(CPU, rank, count))
    return list(loader.steps(drawn(store, config), after))


def tensors(part: Microbatch) -> list[torch.Tensor]:
    histories = [tensor for history in part.batch.histories.values() for tensor in vars(history).values()]
    return [*histories, part.target, part.weight]


def test_one_process_gets_the_batches_as_drawn(easy_store: EventStore) -> None:
    config = settings(genuine_per_fraud=2.0)
    expected, found = drawn(easy_store, config), steps(easy_store, config)
    assert [len(parts) for parts in found] == [1] * (len(expected.rows) // 64)
    for number, (part,) in enumerate(found):
        rows = expected.rows[64 * number : 64 * (number + 1)]
        np.testing.assert_array_equal(part.task.rows, rows)
        np.testing.assert_array_equal(part.weight.numpy(), expected.weight[64 * number : 64 * (number + 1)])
        np.testing.assert_array_equal(part.target.numpy(), easy_store.label[rows])
        varied = expected.variation.select(slice(64 * number, 64 * (number + 1)))
        trimmed = gather_batch(easy_store, rows, trim=True, variation=varied).histories["customer"]
        for name, tensor in vars(part.batch.histories["customer"]).items():
            assert torch.equal(tensor, getattr(trimmed, name)), name
        assert part.task.loss_weight == 1.0


@pytest.mark.parametrize("name", ["label_delay_augmentation", "event_dropout"])
def test_what_is_seen_varies_only_where_it_is_asked_for(easy_store: EventStore, name: str) -> None:
    for share in (0.0, 1.0):
        found = [
            part
            for (part,) in steps(
                easy_store, settings(**{"label_delay_augmentation": 0.0, "event_dropout": 0.0, name: share})
            )
        ]
        plain = [gather_batch(easy_store, part.task.rows, trim=True).histories["customer"].outcome for part in found]
        same = [torch.equal(p, part.batch.histories["customer"].outcome) for p, part in zip(plain, found, strict=True)]  # type: ignore[arg-type]
        assert all(same) if share == 0.0 else not any(same)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [15, 64, 67])
def test_parts_make_the_batch(easy_store: EventStore, count: int, accumulate: int, batch_size: int) -> None:
    config = settings(batch_size=batch_size, gradient_accumulation_steps=accumulate, event_dropout=0.0)
    whole = drawn(easy_store, config).rows.reshape(-1, batch_size)
    by_rank = [steps(easy_store, config, rank, count) for rank in range(count)]
    for number, expected in enumerate(whole):
        parts = [by_rank[rank][number][part] for part in range(accumulate) for rank in range(count)]
        np.testing.assert_array_equal(np.concatenate([part.task.rows for part in parts]), expected)
        assert sum(part.task.loss_weight for part in parts) == pytest.approx(count)
        for part in parts:
            assert part.task.loss_weight == pytest.approx(len(part.task.rows) * count / batch_size)
        for first in range(0, len(parts), count):
            together = parts[first : first + count]
            widths = {part.batch.histories["customer"].padding.shape[1] for part in together}
            assert len(widths) == 1, "all processes have as much to do"
            held = max(int((~part.batch.histories["customer"].padding).sum(1).max()) for part in together)
            assert widths == {held}


def test_padding_is_counted(easy_store: EventStore) -> None:
    for (part,) in steps(easy_store, settings(event_dropout=0.0)):
        padding = part.batch.histories["customer"].padding
        assert part.task.positions == padding.numel()
        assert part.task.filled == int((~padding).sum())


def test_it_goes_on_in_the_midst_of_an_epoch(easy_store: EventStore) -> None:
    every, late = steps(easy_store, settings()), steps(easy_store, settings(), after=3)
    assert len(late) == len(every) - 3
    for (one,), (other,) in zip(every[3:], late, strict=True):
        np.testing.assert_array_equal(one.task.rows, other.task.rows)


def test_workers_make_the_same_batches_and_draw_no_random_numbers(easy_store: EventStore) -> None:
    """In processes of their own, over several epochs, one left in the middle; the network's dropout is as without them."""
    alone, helped = (EpochLoader(easy_store, settings(num_workers=n), DistributedContext(CPU)) for n in (0, 2))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    next(helped.steps(drawn(easy_store, settings(), 7)))
    for epoch in (1, 2):
        epochs = [list(loader.steps(drawn(easy_store, settings(), epoch))) for loader in (alone, helped)]
        assert len(epochs[0]) > 3
        for (one,), (other,) in zip(*epochs, strict=True):
            assert all(map(torch.equal, tensors(one), tensors(other)))
            assert not other.target.is_shared(), "nothing is put into /dev/shm, which is small in containers"
    assert torch.equal(before, torch.get_rng_state())


def test_more_processes_than_payments(easy_store: EventStore) -> None:
    with pytest.raises(
        TrainingError, match=r"3 processes, training.batch_size=5, training.gradient_accumulation_steps=2"
    ):
        EpochLoader(easy_store, settings(batch_size=5, gradient_accumulation_steps=2), DistributedContext(CPU, 0, 3))


@given(size=st.integers(1, 6), batches=st.integers(1, 8), window=st.integers(1, 5), keys=st.integers(1, 3), seed=seeds)
def test_buckets_hold_each_payment_once(size: int, batches: int, window: int, keys: int, seed: int) -> None:
    """And inside a window no batch can be exchanged with another for less padding along the first history."""
    held = np.random.default_rng(seed).integers(1, 9, (keys, size * batches))
    order = bucketed(held, size, window, np.random.default_rng(seed))
    assert sorted(order) == list(range(size * batches))
    np.testing.assert_array_equal(order, bucketed(held, size, window, np.random.default_rng(seed)))
    for first in range(0, size * batches, size * window):
        here = order[first : first + size * window]
        assert sorted(here) == list(range(first, first + len(here))), "windows stay apart"
        if keys == 1:
            spans = sorted((held[0, batch].min(), held[0, batch].max()) for batch in here.reshape(-1, size))
            assert all(a[1] <= b[0] for a, b in pairwise(spans))
    for batch in order.reshape(-1, size):
        assert list(batch) == sorted(batch), "inside a batch the order drawn: parts of it are alike"


def test_buckets_pad_less(demo_store: EventStore) -> None:
    """On payments with two histories; the payments of an epoch are the same."""

    def shares(**changes: Any) -> tuple[float, list[int]]:
        config = TrainingConfig(batch_size=16, num_workers=0, **changes)
        loader = EpochLoader(demo_store, config, DistributedContext(CPU))
        arranged = loader.bucket_by_length(drawn(demo_store, config), 1)
        tasks = [part.task for parts in loader.steps(arranged) for part in parts]
        padded = 1 - sum(task.filled for task in tasks) / sum(task.positions for task in tasks)
        return padded, sorted(row for task in tasks for row in task.rows.tolist())

    as_drawn, in_buckets = shares(), shares(length_bucket_batches=16)
    assert in_buckets[1] == as_drawn[1]
    assert in_buckets[0] < 0.75 * as_drawn[0]


def test_widths_hold_the_longest_history(demo_store: EventStore) -> None:
    config = TrainingConfig(batch_size=32, event_dropout=0.0)
    for (part,) in list(EpochLoader(demo_store, config, DistributedContext(CPU)).steps(drawn(demo_store, config)))[:5]:
        for key in demo_store.market.history:
            held = history_lengths(demo_store.histories[key.name], part.task.rows, key.length)
            assert part.task.widths[key.name] == held.max()
            np.testing.assert_array_equal((~part.batch.histories[key.name].padding).sum(1).numpy(), held)
