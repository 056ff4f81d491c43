"""Calls of a function for parts of the rows: in this process one after the other, or by the workers of a cluster.

A function that is called for parts is the same everywhere, and what is made of its results depends neither on the number of
parts nor on who calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from tsa.errors import ClusterError

Part = tuple[int, int]
"""Rows from the first number to before the second."""
Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

GROUP_ROWS = 2**18
"""Rows that a file of rows stores together. Parts begin at multiples of it where they are larger."""


def one_by_one(work: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item]) -> Iterator[Result]:
    """Call `work(shared, item)` for each item in this process."""
    return (work(shared, item) for item in items)


@dataclass(frozen=True)
class Workers:
    """Who works on parts of the rows."""

    run: Callable[..., Iterator[Any]] = one_by_one
    """run(work, shared, items): the results of `work(shared, item)`, in the order of the items."""
    least: int = 1
    """How many parts work is divided into at least, if there are as many rows."""
    by_file: bool = False
    """Whether each file of a log is a part of its own. Otherwise all files are read together."""
    folder: Path | None = None
    """Where results that others need are written: the workers must see it."""

    def call(self, work: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item]) -> Iterator[Result]:
        """The results of `work(shared, item)` for each item, in their order. `work` is a function of a module.

        Raises:
            ClusterError: If a worker does not see the folder.
        """
        if self.folder is None:
            return self.run(work, shared, items)
        return self.run(_in_folder, (self.folder, work, shared), items)

    def parts(self, n: int, most: int) -> list[Part]:
        """The parts of n rows, of `most` rows at most."""
        count = max(1, -(-n // most), min(self.least, n))
        edges = [n * at // count for at in range(count + 1)]
        if n >= count * GROUP_ROWS and most >= GROUP_ROWS:
            edges = [*(edge // GROUP_ROWS * GROUP_ROWS for edge in edges[:-1]), n]
        return list(pairwise(edges))


def _in_folder(given: tuple[Path, Callable[[Any, Any], Any], Any], item: Any) -> Any:
    folder, work, shared = given
    if not folder.is_dir():
        rule = f"each node of the cluster must see the folder of the store (got no {folder})"
        raise ClusterError(f"{rule}: write to a folder that all nodes share")
    return work(shared, item)


HERE = Workers()
"""This process."""
