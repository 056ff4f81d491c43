"""What a history store does for its callers: keeps bytes under places, and changes several of them at once or not at all.

There are three rooms: payments by id, blocks of earlier events by history and key, and the store's own notes. A change
says what its maker has seen of the places it touches; it is made only if that still stands, so that two changes of the
same place are as if one came after the other, whatever the process. It knows neither payments nor encodings.
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
"""A room and a name in it: (PAYMENTS, id), (NOTES, name), or the name of a history and a key."""

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
    "cluster": "its cluster is not whole",
    "damaged": "it is damaged",
    "evicting": "it may drop histories when its memory is full",
    "lost": "it was emptied or replaced",
    "replaced": "it was replaced by another one",
    "older": "it has gone back to an earlier state",
    "evicted": "it has lost some histories",
    "misfit": "it is not of this bundle",
    "other": "it cannot be used",
}
"""Why histories cannot be read or written. A closed set: metrics and clients are told these alone."""

New = Literal["make", "refuse", "adopt"]
"""What to do with a store that is new: make it, refuse it, or take any store as it is, which is then to be adopted."""

_stamps = random.SystemRandom()


@dataclass(frozen=True)
class VersionedValue:
    """What stands at a place. The stamp is another one after each change."""

    version: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class WriteBatch:
    """Places to write and to empty, and what was seen there before."""

    expected_versions: Mapping[StoreKey, int | None]
    """The stamp of each place, None where there was nothing. Holds all that is written or emptied, and may hold more."""
    puts: Mapping[StoreKey, bytes] = field(default_factory=dict)
    deletes: frozenset[StoreKey] = frozenset()

    def __post_init__(self) -> None:
        if unseen := [place for place in (*self.puts, *self.deletes) if place not in self.expected_versions]:
            raise ValueError(f"a change must have seen what it writes (got {unseen[:3]})")


class HistoryStore(Protocol):
    """Safe to use from several threads and processes at once.

    Every method raises HistoryUnavailable when the store cannot be reached or does not answer in time, and HistoryLost when
    it is not the one that was used before, or lacks what it held.
    """

    @property
    def turns(self) -> int:
        """How often the store was adopted since it was opened: then it may be another one, and empty."""
        ...

    @property
    def seen(self) -> Seen | None:
        """How the store was when it was last read, for other processes that use it."""
        ...

    def check(self) -> None:
        """Return where the store can be read and written at the moment."""
        ...

    def adopt(self) -> None:
        """Go on with the store as it is, whatever it has lost; those that use it will."""
        ...

    def read(self, places: Sequence[StoreKey]) -> dict[StoreKey, VersionedValue]:
        """What stands at these places; those with nothing are absent."""
        ...

    def commit(self, change: WriteBatch) -> bool:
        """Make the change, whole or not at all; False, and nothing is changed, where something seen has moved on.

        What is committed outlasts the death of this process; whether it outlasts that of the machine is a setting.
        """
        ...

    def scan(self, room: str) -> Iterator[tuple[StoreKey, VersionedValue]]:
        """All that stands in a room: PAYMENTS, or a history."""
        ...

    def compact(self) -> None:
        """Let nothing linger in files of what was dropped, as far as this engine can."""
        ...

    def tell_failures(self, call: Callable[[str], object]) -> None:
        """Whom to tell of calls that came to nothing, for one of `REASONS`, and were made again at once."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def new_version() -> int:
    """A stamp that no other change has, for all practical purposes; never 0."""
    return _stamps.getrandbits(62) + 1


def new_store(place: str) -> HistoryError:
    """The refusal of a store that is new."""
    return HistoryError(
        f"the history store must hold payments (got a new store with 0 payments: {place}): "
        "fill it with tsa history load, or start with an empty one by tsa serve --new-store"
    )


def url_options(query: str, known: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The settings behind the `?` of a URL: the known ones, over what they are else, and the others.

    Raises ConfigError for anything that is not name=value.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        pairs = [("", "")]
    if not all(name.isidentifier() for name, _ in pairs):
        raise ConfigError("history: what stands behind the ? must be name=value, joined by &")
    given = dict(pairs)
    others = {name: given[name] for name in given if name not in known}
    return {**known, **{name: given[name] for name in given if name in known}}, others


def seconds_of_setting(name: str, text: str) -> float:
    """A positive number of seconds. Raises ConfigError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 3600:
        raise ConfigError(f"history: {name} must be a number of seconds above 0")
    return value
