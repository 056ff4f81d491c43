"""A store that each worker of a cluster opens itself, where it is, instead of getting its arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from tsa.data.store.manifest import MANIFEST
from tsa.data.store.store import EventStore
from tsa.errors import ClusterError, StoreError
from tsa.files.writing import sha256_of


@dataclass(frozen=True)
class SharedStore:
    """Where a store is, and which one."""

    place: str
    """Path or URL."""
    manifest: str
    """The sha256 of its manifest."""

    @classmethod
    def of(cls, store: EventStore) -> Self:
        """The place of a store that is open here."""
        return cls(place=store.url or str(store.path.resolve()), manifest=sha256_of(store.path / MANIFEST))

    def open(self) -> EventStore:
        """The store, which is opened once in a worker.

        Raises:
            ClusterError: If this node does not see it, or has another one there.
        """
        return _opened(self)


@lru_cache(maxsize=1)
def _opened(shared: SharedStore) -> EventStore:
    try:
        store = EventStore.open(shared.place)
    except StoreError as error:
        rule = f"each node of the cluster must see the store ({error})"
        raise ClusterError(f"{rule}: use a folder that all nodes share, or a store in an object storage") from error
    if sha256_of(store.path / MANIFEST) != shared.manifest:
        raise ClusterError(f"{shared.place} must be the same store on each node (got another one): copy it again")
    return store
