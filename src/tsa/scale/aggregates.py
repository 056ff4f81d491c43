"""Aggregates of payments by the workers of a Ray cluster.

An aggregate depends on a payment and its own history only, so payments may be divided in any way. They are divided by key: a
worker gets one history and payments that are neighbours in its index, and reads the events of their keys only. The payments of
a key with many events are divided, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.aggregates.compute import compute_history
from tsa.data.aggregates.spec import AggregateSpec
from tsa.data.store.store import EventStore
from tsa.scale.cluster import in_cluster
from tsa.scale.shared_store import SharedStore

Array = NDArray[Any]
Shared = tuple[SharedStore, AggregateSpec]

PART_ROWS = 50_000
"""Payments of a call. Its result takes 4 bytes for each payment and column: about 40 MB for 200 columns."""


def aggregates_by_ray(ray: Any, spec: AggregateSpec, store: EventStore, rows: Array, out: Array) -> None:
    """`compute_aggregates` by the workers of a cluster: the same values, to the bit.

    Args:
        ray: As `tsa.scale.cluster.ray_cluster` yields it.
        spec: The aggregates.
        store: The store, which all nodes must see.
        rows: (R,) rows of the payments.
        out: (R, K) float32, in the order of `spec.names`; the values are written here.

    Raises:
        ClusterError: If a node does not see the store, or workers are lost again and again.
    """
    columns, places, first = list[slice](), list[Array](), 0
    for history in spec.histories:
        last = first + len(spec.stored_columns[history])
        order = np.argsort(np.asarray(store.histories[history].position)[rows], kind="stable")
        parts = [order[at : at + PART_ROWS] for at in range(0, len(order), PART_ROWS)]
        places += parts
        columns += [slice(first, last)] * len(parts)
        first = last
    names = [history for history in spec.histories for _ in range(-(-len(rows) // PART_ROWS))]
    items = [(name, rows[place]) for name, place in zip(names, places, strict=True)]
    for at, values in in_cluster(ray, aggregates_in_worker, (SharedStore.of(store), spec), items):
        out[places[at], columns[at]] = values


def aggregates_in_worker(shared: Shared, item: tuple[str, Array]) -> NDArray[np.float32]:
    """`compute_history` in a worker.

    Args:
        shared: The store and the aggregates.
        item: The name of the history, and rows of the store.

    Raises:
        ClusterError: If this node does not see the store.
    """
    (store, spec), (history, rows) = shared, item
    return compute_history(spec, store.open(), history, rows)
