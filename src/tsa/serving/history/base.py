"""The interface of history stores: versioned bytes under (namespace, name) keys, with atomic conditional writes.

Namespaces: payments by id, blocks of history events by history and key, and the store's metadata. A batch names the
versions that its writer has read and is committed only if these are current (optimistic concurrency).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self
from urllib.parse import parse_qsl

from tsa.errors import ConfigError, HistoryError
from tsa.serving.history.identity import Seen

StoreKey = tuple[str, str]
"""A namespace and a name in it: (PAYMENTS, id), (METADATA, name), or (history name, key)."""

PAYMENTS = ""
METADATA = "."

REASONS = {
    "away": "it does not answer",
    "slow": "it does not answer in time",
    "locked": "others have locked it",
    "busy": "others change the same keys all the time",
    "loading": "it is being started",
    "memory": "its memory is full",
    "disk_full": "its disk is full",
    "disk": "its disk cannot be read or written",
    "read_only": "it cannot be written to",
    "denied": "it does not let this server in",
    "cluster": "its cluster is incomplete",
    "damaged": "it is damaged",
    "evicting": "it may drop histories when its memory is full",
    "lost": "it was emptied or replaced",
    "replaced": "it was replaced by another one",
    "older": "it has gone back to an earlier state",
    "evicted": "it has lost some histories",
    "misfit": "it is not of this bundle",
    "other": "it cannot be used",
}
"""Why histories cannot be read or written. A closed set: metrics and clients only get these."""

New = Literal["make", "refuse", "adopt"]
"""How to open a store that is new: "make" creates it, "refuse" raises; "adopt" opens any store, to be adopted next."""

_stamps = random.SystemRandom()


@dataclass(frozen=True)
class VersionedValue:
    """The data of a key, and its version, which is different after each change."""

    version: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class WriteBatch:
    """Keys to write and to delete, with the versions that were read before."""

    expected_versions: Mapping[StoreKey, int | None]
    """The version of each key, None for an absent one. Contains every key that is written or deleted, and may have more."""
    puts: Mapping[StoreKey, bytes] = field(default_factory=dict)
    deletes: frozenset[StoreKey] = frozenset()

    def __post_init__(self) -> None:
        if unseen := [place for place in (*self.puts, *self.deletes) if place not in self.expected_versions]:
            raise ValueError(f"expected_versions must contain every key that is written (got none for {unseen[:3]})")


class HistoryStore(Protocol):
    """Interface of a history store. Safe to use from several threads and processes at once.

    Raises:
        HistoryUnavailable: (every method) the store cannot be reached or does not answer in time.
        HistoryLost: (every method) it is not the store that was used before, or it has lost data.
    """

    @property
    def turns(self) -> int:
        """How often the store was adopted since it was opened. After an adoption it may be another store, or empty."""
        ...

    @property
    def seen(self) -> Seen | None:
        """Identity and generation at the last read, to be passed to other processes that use the store."""
        ...

    def check(self) -> None:
        """Return if the store can be read and written at the moment; raise if not."""
        ...

    def adopt(self) -> None:
        """Accept the store as it is, whatever it has lost; other processes that use it then accept it too."""
        ...

    def read(self, places: Sequence[StoreKey]) -> dict[StoreKey, VersionedValue]:
        """The values of these keys; keys without a value are absent.

        A history that the store has lost raises HistoryLost; for a payment, ask `check_absent`, or commit it: the commit
        of a payment as new raises HistoryLost if the store had it before.
        """
        ...

    def check_absent(self, places: Sequence[StoreKey]) -> None:
        """Raise HistoryLost if the store had one of these keys and lost it. They were absent when read."""
        ...

    def commit(self, change: WriteBatch) -> bool:
        """Commit the batch atomically.

        A commit survives the end of this process; whether it survives a crash of the machine depends on settings.

        Returns:
            False, with nothing changed, if a key no longer has its expected version.
        """
        ...

    def scan(self, namespace: str) -> Iterator[tuple[StoreKey, VersionedValue]]:
        """All keys and values of a namespace: PAYMENTS, or a history."""
        ...

    def compact(self) -> None:
        """Remove deleted data from the files, as far as this engine can."""
        ...

    def on_failure(self, call: Callable[[str], object]) -> None:
        """Set a function to call with one of `REASONS` when a call has failed and is retried."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def new_version() -> int:
    """A random 62-bit version, unique for practical purposes; never 0."""
    return _stamps.getrandbits(62) + 1


def new_store(place: str) -> HistoryError:
    """The error for a store that is new."""
    return HistoryError(
        f"the history store must hold payments (got a new store with 0 payments: {place}): "
        "load payments with tsa history load, or start with an empty store: tsa serve --new-store"
    )


def url_options(query: str, known: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Parse the query of a store URL.

    Args:
        known: options with their defaults.

    Returns:
        The known options, and the others.

    Raises:
        ConfigError: the query is not NAME=VALUE pairs.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        pairs = [("", "")]
    if not all(name.isidentifier() for name, _ in pairs):
        raise ConfigError("history: the part after the ? must be name=value pairs joined by &")
    given = dict(pairs)
    unknown = {name: given[name] for name in given if name not in known}
    return {**known, **{name: given[name] for name in given if name in known}}, unknown


def seconds_of_setting(name: str, text: str) -> float:
    """Parse a positive number of seconds. Raises ConfigError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 3600:
        raise ConfigError(f"history: {name} must be a number of seconds above 0")
    return value
