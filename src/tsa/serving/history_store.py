"""What a history store does for its callers: keeps bytes under places, and changes several of them at once or not at all.

There are three rooms: payments by id, blocks of earlier events by history and key, and the store's own notes. A change
says what its maker has seen of the places it touches; it is made only if that still stands, so that two changes of the
same place are as if one came after the other, whatever the process. It knows neither payments nor encodings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self
from urllib.parse import urlsplit

from tsa.errors import ConfigError

Place = tuple[str, str]
"""A room and a name in it: (PAYMENTS, id), (NOTES, name), or the name of a history and a key."""

PAYMENTS = ""
NOTES = "."

_stamps = random.SystemRandom()


@dataclass(frozen=True)
class Stored:
    """What stands at a place. The stamp is another one after each change."""

    stamp: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Change:
    """Places to write and to empty, and what was seen there before."""

    seen: Mapping[Place, int | None]
    """The stamp of each place, None where there was nothing. Holds all that is written or emptied, and may hold more."""
    put: Mapping[Place, bytes] = field(default_factory=dict)
    drop: frozenset[Place] = frozenset()

    def __post_init__(self) -> None:
        if unseen := [place for place in (*self.put, *self.drop) if place not in self.seen]:
            raise ValueError(f"a change must have seen what it writes, however: {unseen[:3]}")


class HistoryStore(Protocol):
    """Safe to use from several threads and processes at once.

    Every method raises HistoryUnavailable when the store cannot be reached or does not answer in time.
    """

    def read(self, places: Sequence[Place]) -> dict[Place, Stored]:
        """What stands at these places; those with nothing are absent."""
        ...

    def commit(self, change: Change) -> bool:
        """Make the change, whole or not at all; False, and nothing is changed, where something seen has moved on.

        What is committed outlasts the death of this process; whether it outlasts that of the machine is a setting.
        """
        ...

    def scan(self, room: str) -> Iterator[tuple[Place, Stored]]:
        """All that stands in a room: PAYMENTS, or a history."""
        ...

    def purge(self) -> None:
        """Let nothing linger in files of what was dropped, as far as this engine can."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def new_stamp() -> int:
    """A stamp that no other change has, for all practical purposes; never 0."""
    return _stamps.getrandbits(62) + 1


def open_history(url: str, timeout_seconds: float = 5.0) -> HistoryStore:
    """The store behind a URL; it is made where there is none yet. timeout_seconds: where the URL does not say.

        sqlite:///relative.db, sqlite:////absolute.db     [?synchronous=full] [&timeout_seconds=5]
        redis://host:6379/0, rediss://, unix://           [?timeout_seconds=5] [&prefix=tsa]

    Raises ConfigError for a URL that is none of these, or where the Redis library is missing, HistoryUnavailable when
    the store cannot be opened.
    """
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        from tsa.serving.sqlite_store import SQLiteStore

        return SQLiteStore.open(url, timeout_seconds)
    if scheme in ("redis", "rediss", "unix"):
        from tsa.serving.redis_store import RedisStore

        return RedisStore.open(url, timeout_seconds)
    raise ConfigError(f"history must be like sqlite:///histories.db or redis://localhost:6379/0, however: {url!r}")


def settings_of(url: str, query: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The settings behind the `?` of a URL, over the known ones. Raises ConfigError for one that is not known."""
    if unknown := sorted(set(query) - set(known)):
        raise ConfigError(f"history: settings of {url!r} must be of {sorted(known)}, however: {unknown}")
    return {**known, **query}


def seconds_of_setting(name: str, text: str) -> float:
    """A positive number of seconds. Raises ConfigError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 3600:
        raise ConfigError(f"history: {name} must be a number of seconds above 0, however: {text!r}")
    return value
