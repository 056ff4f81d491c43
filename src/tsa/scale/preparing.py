"""Stores that the workers of a Ray cluster make: they read files, sort ranges of time, fit, encode, and index parts of the rows.

What workers need of each other is in files next to the new store, so all nodes must see its folder. The process that started
the work writes the files of the store, from the results in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tsa.data.workers import Workers
from tsa.scale.cluster import PER_CPU, in_cluster


def ray_workers(ray: Any) -> Workers:
    """The workers of a cluster, for `tsa.prepare`. Each file of a log is read by one of them.

    Args:
        ray: As `tsa.scale.cluster.ray_cluster` yields it.
    """

    def run(work: Callable[..., Any], shared: object, items: Sequence[object]) -> Iterator[Any]:
        return (result for _, result in in_cluster(ray, work, shared, items, ordered=True))

    parts = max(2, int(ray.cluster_resources().get("CPU", 1)) * PER_CPU)
    return Workers(run=run, least=parts, by_file=True)
