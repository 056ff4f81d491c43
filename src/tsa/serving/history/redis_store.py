"""A history store in Redis, shared by many machines.

A value is one string: version (8 bytes), then data. A commit is one Lua script. All keys share a hash tag, so that a cluster
stores them on one node. Durable before the acknowledgement only with `appendonly yes` and `appendfsync always`.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Self

from tsa.errors import HistoryLost, HistoryUnavailable
from tsa.serving.history import redis_scripts as scripts
from tsa.serving.history.base import (
    METADATA,
    PAYMENTS,
    New,
    StoreKey,
    VersionedValue,
    WriteBatch,
    new_store,
    new_version,
)
from tsa.serving.history.identity import ADVICE, Guard, GuardedStore, Identity, Mark, Seen
from tsa.serving.history.redis_client import RedisAddress, library, refusing
from tsa.serving.history.redis_connection import AT_ONCE, RedisConnection

STAMP_BYTES = 8
MARK = "mark:"

_log = logging.getLogger(__name__)


class RedisStore(GuardedStore):
    """A `HistoryStore` in Redis. Each read and commit checks the store's identity and generation."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        new: New = "make",
        seen: Seen | None = None,
        allow_eviction: bool = False,
    ) -> None:
        """For `new`, `seen` and their errors see `open_history`.

        Raises:
            HistoryUnavailable: the server does not answer.
            ConfigError: the server may evict keys and `allow_eviction` is false.
        """
        self._name, self._prefix = address.name, f"{{{address.prefix}}}"
        self._identity, self._generation, self._known_keys, self._store_metadata = (
            self._key((METADATA, name)) for name in ("identity", "generation", "keys", "metadata")
        )
        self._mark = self._key((METADATA, f"{MARK}{uuid.uuid4().hex}"))
        """The key with the mark of the last change of this process."""
        self._guard = Guard(f"in Redis {self._name}", seen)
        self._redis = RedisConnection(address, self._identity, allow_eviction=allow_eviction or new == "adopt")
        if seen is None:
            self._begin(new, allow_eviction=allow_eviction)

    @classmethod
    def open(
        cls,
        url: str,
        timeout_seconds: float,
        *,
        new: New = "make",
        seen: Seen | None = None,
        allow_eviction: bool = False,
    ) -> Self:
        """Open the store at a URL of the Redis library. Raises ConfigError if the library is missing."""
        return cls(RedisAddress(url, timeout_seconds), new=new, seen=seen, allow_eviction=allow_eviction)

    def read(self, places: Sequence[StoreKey]) -> dict[StoreKey, VersionedValue]:
        """See `HistoryStore`."""
        if not places:
            return {}
        keys = [self._key(place) for place in places]
        values = self._checked_get(keys)
        absent = [at for at, place in enumerate(places) if values[at] is None and place[0] not in (PAYMENTS, METADATA)]
        for at, value in zip(absent, self._missing([keys[at] for at in absent]), strict=True):
            values[at] = value
        return {place: _stored(data) for place, data in zip(places, values, strict=True) if data is not None}

    def check_absent(self, places: Sequence[StoreKey]) -> None:
        """See `HistoryStore`."""
        self._missing([self._key(place) for place in places])

    def commit(self, change: WriteBatch) -> bool:
        """See `HistoryStore`."""
        stamp, seen = _packed(new_version()), self._guard.seen
        if seen is None:
            self.check()
            seen = self._guard.seen
            assert seen is not None
        keys = [self._identity, self._generation, self._known_keys, self._mark]
        text = b"%d" % int.from_bytes(stamp, "little")
        arguments: list[bytes | int] = [seen.identity, seen.generation, text]
        for place, old in change.expected_versions.items():
            keys.append(self._key(place))
            arguments.append(b"" if old is None else _packed(old))
            if place in change.puts:
                is_new = old is None and place[0] != METADATA
                arguments += [b"new" if is_new else b"put", stamp + change.puts[place]]
            else:
                arguments += [b"drop" if place in change.deletes else b"keep", b""]
        generation = int(self._redis.run(scripts.COMMIT, keys, arguments))
        if generation == scripts.EVICTED:
            self._raise_evicted(1)
        if generation < 0:  # another store, or an earlier state of it: `check` raises, unless it was adopted in between
            self.check()
        if generation > 0:
            self._guard.note(seen.identity, Mark(generation, text))
        return generation > 0

    def scan(self, namespace: str) -> Iterator[tuple[StoreKey, VersionedValue]]:
        """See `HistoryStore`."""
        start = self._key((namespace, ""))
        for keys in self._redis.scan(start):
            values: Any = self._redis.ask(self._redis.client.mget, keys) if keys else []
            for key, data in zip(keys, values, strict=True):
                if data is not None:
                    yield (namespace, key[len(start) :].decode()), _stored(data)

    def compact(self) -> None:
        """Have Redis rewrite its append-only file in the background, without the deleted data."""
        redis = library()
        with refusing(self._name):
            try:
                self._redis.node().bgrewriteaof()
            except redis.ResponseError as error:
                _log.warning("Redis did not rewrite its append-only file: %s", error)

    def check(self) -> None:
        """See `HistoryStore`."""
        self._redis.connect()
        self._redis.check_eviction(now=True)
        self._checked_get([])

    def adopt(self) -> None:
        """See `HistoryStore`."""
        (before,) = self._redis.ask(self._redis.client.mget, [self._identity])
        metadata = self._key((METADATA, ""))
        for keys in self._redis.scan(f"{self._prefix}:".encode()):
            self._recount([key for key in keys if not key.startswith(metadata)])
        cursor = 0
        while True:
            cursor, noted = self._redis.ask(self._redis.client.sscan, self._known_keys, cursor, None, AT_ONCE)
            self._recount([key for key in noted if key])
            if cursor == 0:
                break
        for marks in self._redis.scan(self._key((METADATA, MARK))):
            if marks:  # of processes that have ended, or will open the store again
                self._redis.ask(self._redis.client.delete, *marks)
        keys = [self._identity, self._generation, self._known_keys]
        self._redis.run(scripts.ADOPT, keys, [Identity.adopted(before).pack()])
        self._checked_get([])

    def close(self) -> None:
        """See `HistoryStore`."""
        if self._guard.own is not None:
            with contextlib.suppress(HistoryUnavailable):
                self._redis.ask(self._redis.client.delete, self._mark)
        self._redis.close()

    def on_failure(self, call: Callable[[str], object]) -> None:
        """See `HistoryStore`."""
        self._redis.on_failure(call)

    def _begin(self, new: New, *, allow_eviction: bool) -> None:
        """Check the server and the store at opening; create the store if asked to."""
        self._redis.connect()
        self._redis.check_settings(may_evict=allow_eviction)
        if new == "adopt":
            return
        (identity,) = self._redis.ask(self._redis.client.mget, [self._identity])
        if identity is None:
            keys = [self._generation, self._known_keys, self._store_metadata]
            if self._redis.ask(self._redis.client.exists, *keys):
                raise HistoryLost(f"history store {self._name} has no identity, or has lost it: {ADVICE}", "lost")
            if new == "refuse":
                raise new_store(self._name)
            own = Identity.new().pack()
            if self._redis.run(scripts.MAKE, [self._identity, *keys], [own]) == own:
                _log.warning("new store, 0 payments: Redis %s", self._name)
        self._checked_get([])

    def _checked_get(self, keys: list[bytes]) -> list[bytes | None]:
        """Read these keys and check that the store is still the same.

        A store that seems lost is read again over a new connection: the old one may lead to a former primary server.
        """
        self._redis.connect()
        self._redis.check_eviction()
        try:
            return self._get_once(keys, sure=False)
        except HistoryLost:
            self._redis.drop()
        try:
            return self._get_once(keys, sure=True)
        except HistoryLost as lost:
            if lost.reason == "older":
                self._condemn()
            raise

    def _get_once(self, keys: list[bytes], *, sure: bool) -> list[bytes | None]:
        before, own = self._guard.seen, self._guard.own
        values: list[bytes | None]
        notes = [self._identity, self._generation, self._mark]
        *values, identity, generation, mark = self._redis.ask(self._redis.client.mget, [*keys, *notes])
        number = None if generation is None else int(generation)
        self._guard.check(identity, number, before, own=own, mark_found=mark, sure=sure)
        return values

    def _condemn(self) -> None:
        """Mark the store as lost: it went back to an earlier state, which other processes may not be able to notice."""
        if (seen := self._guard.seen) is not None:
            lost = replace(Identity.unpack(seen.identity), lost=True).pack()
            try:
                self._redis.run(scripts.CONDEMN, [self._identity], [seen.identity, lost])
            except HistoryUnavailable as error:
                _log.warning("the store could not be marked as lost: %s", error)

    def _missing(self, keys: list[bytes]) -> list[bytes | None]:
        """Look up missing keys. Raises HistoryLost if one of them was written before, so was evicted."""
        answers: list[bytes | int] = []
        for first in range(0, len(keys), AT_ONCE):
            answers += self._redis.run(scripts.MISSING, [self._known_keys, *keys[first : first + AT_ONCE]])
        if 1 in answers:
            self._raise_evicted(answers.count(1))
        return [None if value == 0 else value for value in answers]  # type: ignore[misc]

    def _raise_evicted(self, count: int) -> NoReturn:
        text = f"history store in Redis {self._name} has evicted {count} of the histories or payments to read"
        raise HistoryLost(f"{text}: {ADVICE}", "evicted")

    def _recount(self, keys: list[bytes]) -> None:
        """Update the key set for these keys."""
        for first in range(0, len(keys), AT_ONCE):
            self._redis.run(scripts.RECOUNT, [self._known_keys, *keys[first : first + AT_ONCE]])

    def _key(self, place: StoreKey) -> bytes:
        return f"{self._prefix}:{place[0]}:{place[1]}".encode()


def _packed(stamp: int) -> bytes:
    return stamp.to_bytes(STAMP_BYTES, "little")


def _stored(data: bytes) -> VersionedValue:
    return VersionedValue(int.from_bytes(data[:STAMP_BYTES], "little"), data[STAMP_BYTES:])
