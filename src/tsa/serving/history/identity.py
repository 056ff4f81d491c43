"""Detection of lost history stores: each store has an identity and a generation number that each commit increments.

No identity: the store was emptied; another one: it was replaced; a lower generation, or without the mark of this process's
last change: an older copy was restored. Such a store is refused until an operator adopts it.
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
    """The identity of a store, as it is stored there."""

    id: str
    adopted_at: float | None = None
    """When an operator adopted the store; None if it never was adopted."""
    follows: str | None = None
    """The id before the adoption."""
    lost: bool = False
    """Whether a process has noticed that the store went back to an earlier state."""

    @classmethod
    def new(cls) -> Self:
        """The identity of a new store."""
        return cls(id=uuid.uuid4().hex)

    @classmethod
    def adopted(cls, before: bytes | None) -> Self:
        """The identity of an adopted store. before: its packed identity so far, if any."""
        follows = None
        if before is not None:
            with contextlib.suppress(HistoryLost):
                follows = cls.unpack(before).id
        return cls(id=uuid.uuid4().hex, adopted_at=time.time(), follows=follows)

    def pack(self) -> bytes:
        """Encode as bytes."""
        return orjson.dumps(asdict(self))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Decode an identity. Raises HistoryLost if the bytes are invalid."""
        try:
            fields: dict[str, Any] = orjson.loads(data)
            return cls(**fields)
        except (ValueError, TypeError):
            raise HistoryLost("the history store's identity cannot be read", "replaced") from None


RING = 1024
"""The number of changes whose marks are stored; older changes are not looked up."""


class Mark(NamedTuple):
    """A change: the generation that it made, and a text that no other change has."""

    generation: int
    text: bytes

    @classmethod
    def unpack(cls, data: bytes | None) -> Mark | None:
        """Decode a mark; None if the bytes are none."""
        generation, has, text = (data or b"").partition(b":")
        return cls(int(generation), text) if has and generation.isdigit() else None

    def pack(self) -> bytes:
        """Encode as bytes."""
        return b"%d:%b" % self


class Seen(NamedTuple):
    """State of a store at the last read."""

    identity: bytes
    generation: int
    at: float
    """Epoch seconds when it was known to be the store at its address."""


class Guard:
    """Compares a store with its last known state. One per process and store; safe to use from several threads."""

    def __init__(self, name: str, seen: Seen | None = None) -> None:
        """Args:
        name: name of the store, for messages.
        seen: its state as read by another process.
        """
        self._name, self._seen = name, seen
        self._went_back = False
        self._own: Mark | None = None
        self._lock = threading.Lock()
        self.turns = 0
        """How often an adopted store was accepted."""

    @property
    def seen(self) -> Seen | None:
        """State of the store at the last read; pass it to `check` as `before`."""
        return self._seen

    @property
    def own(self) -> Mark | None:
        """The last change that was made here. What the store has in its place goes to `check`."""
        return self._own

    def check(
        self,
        identity: bytes | None,
        generation: int | None,
        before: Seen | None,
        *,
        own: Mark | None = None,
        mark_found: bytes | None = None,
        sure: bool = True,
        at: float | None = None,
    ) -> None:
        """Compare what a call of the store has read with the last known state.

        Args:
            before: `seen` before the call.
            own: `own` before the call.
            mark_found: the mark that the store has in the place of `own`.
            sure: refuse the store from now on if it has gone back; false if a wrong server may have answered.
            at: epoch seconds when this store was last known to be the one at its address; None for now. A store that was
                adopted later may take its place.

        Raises:
            HistoryLost: it is not the store that was used before, or an earlier state of it.
        """
        if identity is None or generation is None:
            raise HistoryLost(f"history store {self._name} was emptied or replaced: {ADVICE}", "lost")
        with self._lock:
            seen = self._seen
            if seen is None or identity != seen.identity:
                self._turn(identity, generation, seen, _now(at))
                return
            same = before is not None and before.identity == identity
            lower = before is not None and generation < before.generation
            if self._went_back or (same and (lower or _lost_mark(own, Mark.unpack(mark_found)))):
                self._went_back = self._went_back or sure
                raise self._older()
            self._seen = Seen(identity=identity, generation=max(generation, seen.generation), at=_now(at))

    def note(self, identity: bytes, mark: Mark, *, at: float | None = None) -> None:
        """Record a change made by this process. at: see `check`."""
        with self._lock:
            if (seen := self._seen) is None or seen.identity != identity:
                return
            if mark.generation > seen.generation:
                self._seen = Seen(identity=identity, generation=mark.generation, at=_now(at))
            if self._own is None or mark.generation > self._own.generation:
                self._own = mark

    def _turn(self, identity: bytes, generation: int, seen: Seen | None, at: float) -> None:
        """Accept a store that was not seen before, or refuse it."""
        current = Identity.unpack(identity)
        if current.lost:
            raise self._older()
        if seen is not None:
            follows = current.follows is not None and current.follows == Identity.unpack(seen.identity).id
            if not follows and (current.adopted_at is None or current.adopted_at <= seen.at):
                raise HistoryLost(f"history store {self._name} was replaced by another one: {ADVICE}", "replaced")
            self.turns += 1
        self._seen, self._went_back = Seen(identity=identity, generation=generation, at=at), False
        self._own = None

    def _older(self) -> HistoryLost:
        return HistoryLost(
            f"history store {self._name} has gone back to an earlier state, without changes that it had: {ADVICE}",
            "older",
        )


class GuardedStore(ABC):
    """Common part of the stores: properties of their guard, and use as a context manager."""

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


def _now(at: float | None) -> float:
    return time.time() if at is None else at


def _lost_mark(own: Mark | None, stored: Mark | None) -> bool:
    """Whether a store lacks a change of this process. The place of its mark may have that of a much later change."""
    return own is not None and (stored is None or (stored != own and stored.generation <= own.generation))
