"""Which store it is, and how far it has come: noticed with each read, so that a store that was lost is not taken for an empty one.

A store has an identity, made once, and a generation, which each change raises. Who reads remembers both: a store without an
identity was emptied, another identity is another store, a lower generation is an earlier state of it. Each is refused
until an operator says that the store is to be gone on with, which gives it a new identity (`adopt`). It knows no engine.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import orjson

from tsa.errors import HistoryLost

ADVICE = "to use the store as it is, run tsa history adopt"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a store says of itself."""

    id: str
    adopted_at: float | None = None
    """When an operator said that it is to be gone on with; None for one that was made new."""
    follows: str | None = None
    """The id that it had before."""
    lost: bool = False
    """Whether a reader has found that it went back to an earlier state."""

    @classmethod
    def new(cls) -> Self:
        """Of a new store."""
        return cls(id=uuid.uuid4().hex)

    @classmethod
    def adopted(cls, before: bytes | None) -> Self:
        """Of a store that is gone on with; before: the identity that it has, if any."""
        follows = None
        if before is not None:
            with contextlib.suppress(HistoryLost):
                follows = cls.unpack(before).id
        return cls(id=uuid.uuid4().hex, adopted_at=time.time(), follows=follows)

    def pack(self) -> bytes:
        """As bytes."""
        return orjson.dumps(asdict(self))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Of these bytes. Raises HistoryLost for others."""
        try:
            found: dict[str, Any] = orjson.loads(data)
            return cls(**found)
        except (ValueError, TypeError):
            raise HistoryLost("the history store's identity cannot be read", "replaced") from None


class Seen(NamedTuple):
    """How a store was when it was last read."""

    identity: bytes
    generation: int
    at: float
    """Epoch seconds."""


class Guard:
    """Compares a store with how it was. One for each process and store; safe to use from several threads."""

    def __init__(self, name: str, seen: Seen | None = None) -> None:
        """name: of the store, for messages. seen: how another process has seen it."""
        self._name, self._seen = name, seen
        self._went_back = False
        self._lock = threading.Lock()
        self.turns = 0
        """How often a store was accepted that had been adopted."""

    @property
    def seen(self) -> Seen | None:
        """How the store was when it was last read; pass it to `check` to say what was known before a call."""
        return self._seen

    def check(self, identity: bytes | None, generation: int | None, before: Seen | None, *, sure: bool = True) -> None:
        """Note what a call of the store has met. before: `seen` as it was before the call. sure: whether a store that has gone
        back is to be refused from now on; else it may still turn out that another server has answered.

        Raises HistoryLost for a store that is not the one that was seen before, or not all of it.
        """
        if identity is None or generation is None:
            raise HistoryLost(f"history store {self._name} was emptied or replaced: {ADVICE}", "lost")
        with self._lock:
            seen = self._seen
            if seen is None or identity != seen.identity:
                self._turn(identity, generation, seen)
                return
            if self._went_back or (
                before is not None and before.identity == identity and generation < before.generation
            ):
                self._went_back = self._went_back or sure
                raise self._older()
            self._seen = Seen(identity=identity, generation=max(generation, seen.generation), at=time.time())

    def note(self, identity: bytes, generation: int) -> None:
        """Note the generation after a change."""
        with self._lock:
            if (seen := self._seen) is not None and seen.identity == identity and generation > seen.generation:
                self._seen = Seen(identity=identity, generation=generation, at=time.time())

    def _turn(self, identity: bytes, generation: int, seen: Seen | None) -> None:
        """Accept a store that was not seen before, or refuse it."""
        found = Identity.unpack(identity)
        if found.lost:
            raise self._older()
        if seen is not None:
            follows = found.follows is not None and found.follows == Identity.unpack(seen.identity).id
            if not follows and (found.adopted_at is None or found.adopted_at <= seen.at):
                raise HistoryLost(f"history store {self._name} was replaced by another one: {ADVICE}", "replaced")
            self.turns += 1
        self._seen, self._went_back = Seen(identity=identity, generation=generation, at=time.time()), False

    def _older(self) -> HistoryLost:
        return HistoryLost(
            f"history store {self._name} has gone back to an earlier state, without changes that it had: {ADVICE}",
            "older",
        )


class GuardedStore(ABC):
    """What all engines do alike: report what their guard has seen, and close at the end of a block."""

    _guard: Guard

    @property
    def turns(self) -> int:
        """See `HistoryStore`."""
        return self._guard.turns

    @property
    def seen(self) -> Seen | None:
        """See `HistoryStore`."""
        return self._guard.seen

    @abstractmethod
    def close(self) -> None:
        """See `HistoryStore`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
