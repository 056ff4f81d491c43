"""Calls of a function by the workers of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tsa.errors import ClusterError, TSAError
from tsa.optional_libraries import imported
from tsa.text import brief

logger = logging.getLogger(__name__)

RETRIES = 3
"""How often a call is made again whose worker was lost."""
PER_CPU = 2
"""Calls that are given to the cluster at a time, for each of its processors."""


@contextmanager
def ray_cluster(address: str | None = None, *, cpus: int | None = None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster. One that this process is connected to already is used and remains.

    Args:
        address: `HOST:PORT` of a cluster of which this machine is a node, `ray://HOST:PORT` of any other, or `auto` for one
            that runs on this machine. None: that of RAY_ADDRESS, or one that runs here, or else one is started here.
        cpus: Start a cluster of this machine with so many processors.

    Raises:
        ClusterError: If it cannot be reached or started.
        ConfigError: If Ray is not installed.
    """
    ray = imported("a Ray cluster", "ray", "ray")
    if ray.is_initialized():
        yield ray
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    if cpus is not None:
        settings |= {"address": "local", "num_cpus": cpus}
    try:
        ray.init(**{"address": address, **settings})
    except Exception as error:  # Ray raises plain ones too
        ray.shutdown()
        rule = f"the Ray cluster {address or os.environ.get('RAY_ADDRESS') or 'of this machine'} cannot be reached"
        raise ClusterError(f"{rule} ({error}): start it, or correct --ray-address") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def in_cluster(
    ray: Any, work: Callable[..., Any], shared: object, items: Sequence[object], *, ordered: bool = False
) -> Iterator[tuple[int, Any]]:
    """Call `work(shared, item)` for each item by the workers of a cluster; yield the number of each with its result, as they end.

    A call whose worker is lost is made again, on another one. Results wait in the cluster until they are taken, a few for each
    processor. After an error the calls that were made already end, and nobody takes their results: cancelling calls made Ray
    2.60 end this process.

    Args:
        ray: As `ray_cluster` yields it.
        work: A function of a module that the workers have too.
        shared: Sent to each node once.
        items: One for each call.
        ordered: Yield the results in the order of the items.

    Raises:
        TSAError: What `work` raises; no more calls are made.
        ClusterError: If the workers of a call are lost again and again, or it fails in another way.
    """
    call = ray.remote(work).options(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")
    pending: dict[Any, int] = {}
    left, returned = iter(enumerate(items)), 0
    try:
        sent = ray.put(shared)
        for _ in range(max(1, int(ray.cluster_resources().get("CPU", 1))) * PER_CPU):
            _call_next(call, sent, left, pending)
        while pending:
            done = next(iter(pending)) if ordered else ray.wait(list(pending), num_returns=1)[0][0]
            at = pending.pop(done)
            result = ray.get(done)
            returned += _bytes_of(ray, done)
            _call_next(call, sent, left, pending)
            yield at, result
            del result, done
        logger.info("%d calls: %d bytes to each node, %d bytes back", len(items), _bytes_of(ray, sent), returned)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TSAError):
            raise error.cause from None
        logger.error("a worker failed: %s", error)
        what = f"{type(error.cause).__name__}: {brief(str(error.cause), 300)}"
        raise ClusterError(f"a worker failed ({what}): see the log of the command") from error
    except ray.exceptions.RayError as error:
        rule = f"the work must not lose its workers more than {RETRIES} times"
        raise ClusterError(f"{rule} ({type(error).__name__}: {error}): see the logs of the Ray cluster") from error


def _bytes_of(ray: Any, reference: Any) -> int:
    """The size of an object in the cluster; 0 where Ray does not say it, as over `ray://`."""
    try:
        return int(ray.experimental.get_object_locations([reference])[reference]["object_size"] or 0)
    except Exception:  # for the log only
        return 0


def _call_next(call: Any, sent: Any, left: Iterator[tuple[int, object]], pending: dict[Any, int]) -> None:
    for at, item in left:
        pending[call.remote(sent, item)] = at
        return
