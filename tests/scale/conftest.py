"""One Ray cluster of two workers on loopback, which all tests of the folder share: its start takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tsa.errors import ClusterError
from tsa.scale.cluster import ray_cluster


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with ExitStack() as stack:
        for left in (2, 1, 0):  # a busy machine may be too slow for Ray, which waits half a minute for its parts
            try:
                module = stack.enter_context(ray_cluster(cpus=2))
                break
            except ClusterError:
                if not left:
                    raise
        yield module
