"""A history store in Redis, shared by many machines.

A value is one string: version (8 bytes), then data. A commit is one Lua script. All keys share a hash tag, so that a cluster
stores them on one node. Durable before the acknowledgement only with `appendonly yes` and `appendfsync always`.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

from tsa.errors import ConfigError, HistoryLost, HistoryUnavailable
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
from tsa.serving.history.redis_client import (
    RedisAddress,
    drop_connections,
    eviction_policy,
    is_cluster,
    library,
    node_of,
    note_durability,
    refusing,
)

STAMP_BYTES = 8
AT_ONCE = 1000
MARK = "mark:"
CHECK_SECONDS = 30.0
"""How often the server's eviction policy is checked."""

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
        self._address, self._name, self._prefix = address, address.name, f"{{{address.prefix}}}"
        self._allow_eviction, self._check_at = allow_eviction or new == "adopt", 0.0
        self._identity, self._generation, self._blocks, self._store_metadata = (
            self._key((METADATA, name)) for name in ("identity", "generation", "blocks", "metadata")
        )
        self._mark = self._key((METADATA, f"{MARK}{uuid.uuid4().hex}"))
        """The key with the mark of the last change of this process."""
        self._failed: Callable[[str], object] = lambda reason: None
        self._guard = Guard(f"in Redis {self._name}", seen)
        self._client: Any = address.client()
        self._scripts: dict[str, Any] = {}
        self._connected = False
        if seen is None:
            self._begin(new)

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
        if absent := [
            at for at, place in enumerate(places) if values[at] is None and place[0] not in (PAYMENTS, METADATA)
        ]:
            for at, value in zip(absent, self._missing([keys[at] for at in absent]), strict=True):
                values[at] = value
        return {place: _stored(data) for place, data in zip(places, values, strict=True) if data is not None}

    def commit(self, change: WriteBatch) -> bool:
        """See `HistoryStore`."""
        stamp, seen = _packed(new_version()), self._guard.seen
        if seen is None:
            self.check()
            seen = self._guard.seen
            assert seen is not None
        keys = [self._identity, self._generation, self._blocks, self._mark]
        text = b"%d" % int.from_bytes(stamp, "little")
        arguments: list[bytes | int] = [seen.identity, seen.generation, text]
        for place, old in change.expected_versions.items():
            keys.append(self._key(place))
            arguments.append(b"" if old is None else _packed(old))
            is_block = place[0] not in (PAYMENTS, METADATA)
            if place in change.puts:
                arguments += [b"new" if is_block and old is None else b"put", stamp + change.puts[place]]
            elif place in change.deletes:
                arguments += [b"drop" if is_block else b"del", b""]
            else:
                arguments += [b"keep", b""]
        generation = int(self._ask(self._run, scripts.COMMIT, keys, arguments))
        if generation < 0:  # another store, or an earlier state of it: `check` raises, unless it was adopted in between
            self.check()
        if generation > 0:
            self._guard.note(seen.identity, Mark(generation, text))
        return generation > 0

    def scan(self, namespace: str) -> Iterator[tuple[StoreKey, VersionedValue]]:
        """See `HistoryStore`. Each key once, although Redis may return a key twice."""
        start = self._key((namespace, ""))
        for keys in self._scanned(start):
            values: Any = self._ask(self._client.mget, keys) if keys else []
            for key, data in zip(keys, values, strict=True):
                if data is not None:
                    yield (namespace, key[len(start) :].decode()), _stored(data)

    def compact(self) -> None:
        """Have Redis rewrite its append-only file in the background, without the deleted data."""
        redis = library()
        with refusing(self._name):
            try:
                node_of(self._client, self._identity).bgrewriteaof()
            except redis.ResponseError as error:
                _log.warning("Redis did not rewrite its append-only file: %s", error)

    def check(self) -> None:
        """See `HistoryStore`."""
        self._check_at = 0.0
        self._checked_get([])

    def adopt(self) -> None:
        """See `HistoryStore`."""
        (before,) = self._ask(self._client.mget, [self._identity])
        blocks = len(self._key(("", ""))), len(self._key((METADATA, "")))
        for keys in self._scanned(f"{self._prefix}:".encode()):
            own = [
                key
                for key in keys
                if key[: blocks[0]] != self._key(("", "")) and key[: blocks[1]] != self._key((METADATA, ""))
            ]
            self._recount(own)
        cursor = 0
        while True:
            cursor, noted = self._ask(self._client.sscan, self._blocks, cursor, None, AT_ONCE)
            self._recount([key for key in noted if key])
            if cursor == 0:
                break
        for marks in self._scanned(self._key((METADATA, MARK))):
            if marks:  # of processes that have ended, or will open the store again
                self._ask(self._client.delete, *marks)
        keys = [self._identity, self._generation, self._blocks]
        self._ask(self._run, scripts.ADOPT, keys, [Identity.adopted(before).pack()])
        self._checked_get([])

    def close(self) -> None:
        """See `HistoryStore`."""
        if self._guard.own is not None:
            with contextlib.suppress(HistoryUnavailable):
                self._ask(self._client.delete, self._mark)
        self._client.close()

    def on_failure(self, call: Callable[[str], object]) -> None:
        """See `HistoryStore`."""
        self._failed = call

    def _begin(self, new: New) -> None:
        """Check the server and the store at opening; create the store if asked to."""
        self._connect()
        server = node_of(self._client, self._identity)
        if (policy := eviction_policy(server, self._name)) is not None:
            text = f"Redis may drop histories when its memory is full (maxmemory-policy {policy}): set it to noeviction"
            if not self._allow_eviction:
                raise ConfigError(f"{text}, or allow it by --allow-eviction")
            _log.warning("%s; an evicted history is detected and not used for scoring", text)
        note_durability(server, self._name)
        self._check_at = time.monotonic() + CHECK_SECONDS
        if new == "adopt":
            return
        (identity,) = self._ask(self._client.mget, [self._identity])
        if identity is None:
            keys = [self._generation, self._blocks, self._store_metadata]
            if self._ask(self._client.exists, *keys):
                raise HistoryLost(f"history store {self._name} has no identity, or has lost it: {ADVICE}", "lost")
            if new == "refuse":
                raise new_store(self._name)
            own = Identity.new().pack()
            if self._ask(self._run, scripts.MAKE, [self._identity, *keys], [own]) == own:
                _log.warning("new store, 0 payments: Redis %s", self._name)
        self._checked_get([])

    def _connect(self) -> None:
        """Connect, and switch to a cluster client if the server is a node of a cluster."""
        if self._connected:
            return
        with refusing(self._name):
            self._client.ping()
        if is_cluster(self._client, self._name):
            one, self._client = self._client, self._address.cluster()
            one.close()
        self._connected = True

    def _checked_get(self, keys: list[bytes]) -> list[bytes | None]:
        """Read these keys and check that the store is still the same.

        A store that seems lost is read again over a new connection: the old one may lead to a former primary server.
        """
        self._connect()
        self._check_eviction()
        try:
            return self._get_once(keys, sure=False)
        except HistoryLost:
            drop_connections(self._client)
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
        *values, identity, generation, mark = self._ask(self._client.mget, [*keys, *notes])
        number = None if generation is None else int(generation)
        self._guard.check(identity, number, before, own=own, mark_found=mark, sure=sure)
        return values

    def _condemn(self) -> None:
        """Mark the store as lost: it went back to an earlier state, which other processes may not be able to notice."""
        if (seen := self._guard.seen) is not None:
            lost = replace(Identity.unpack(seen.identity), lost=True).pack()
            try:
                self._ask(self._run, scripts.CONDEMN, [self._identity], [seen.identity, lost])
            except HistoryUnavailable as error:
                _log.warning("the store could not be marked as lost: %s", error)

    def _missing(self, keys: list[bytes]) -> list[bytes | None]:
        """Look up missing blocks. Raises HistoryLost if one of them was written before, so was evicted."""
        answers: list[bytes | int] = []
        for first in range(0, len(keys), AT_ONCE):
            some = [self._blocks, *keys[first : first + AT_ONCE]]
            answers += self._ask(self._run, scripts.MISSING, some, [])
        if 1 in answers:
            text = f"history store in Redis {self._name} has evicted {answers.count(1)} of the histories to read"
            raise HistoryLost(f"{text}: {ADVICE}", "evicted")
        return [None if value == 0 else value for value in answers]  # type: ignore[misc]

    def _recount(self, keys: list[bytes]) -> None:
        for first in range(0, len(keys), AT_ONCE):
            some = [self._blocks, *keys[first : first + AT_ONCE]]
            self._ask(self._run, scripts.RECOUNT, some, [])

    def _scanned(self, start: bytes) -> Iterator[list[bytes]]:
        """All keys with this prefix, in batches, each once."""
        returned: set[bytes] = set()
        cursor = 0
        while True:
            with refusing(self._name):
                server = node_of(self._client, self._identity)
                cursor, batch = server.scan(cursor, match=_literal(start) + b"*", count=AT_ONCE)
            keys = [key for key in dict.fromkeys(batch) if key not in returned]
            returned.update(keys)
            yield keys
            if cursor == 0:
                return

    def _run(self, script: str, keys: list[bytes], arguments: Sequence[bytes | int]) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        return self._scripts[script](keys=keys, args=arguments)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call the client. If the server has become a replica, reconnect and call once more."""
        redis = library()
        with refusing(self._name):
            try:
                return call(*arguments)
            except redis.ReadOnlyError:
                self._failed("read_only")
                _log.warning("Redis %s is a replica now (READONLY): connecting again", self._name)
                drop_connections(self._client)
                return call(*arguments)

    def _check_eviction(self) -> None:
        """Check the eviction policy now and then: a different server may be at the address by now."""
        if self._allow_eviction or time.monotonic() < self._check_at:
            return
        if (policy := eviction_policy(node_of(self._client, self._identity), self._name)) is not None:
            text = f"Redis {self._name} may drop histories when its memory is full (maxmemory-policy {policy})"
            raise HistoryUnavailable(f"{text}: set it to noeviction", "evicting")
        self._check_at = time.monotonic() + CHECK_SECONDS

    def _key(self, place: StoreKey) -> bytes:
        return f"{self._prefix}:{place[0]}:{place[1]}".encode()


def _packed(stamp: int) -> bytes:
    return stamp.to_bytes(STAMP_BYTES, "little")


def _stored(data: bytes) -> VersionedValue:
    return VersionedValue(int.from_bytes(data[:STAMP_BYTES], "little"), data[STAMP_BYTES:])


def _literal(text: bytes) -> bytes:
    """Escape a text for use in a glob pattern."""
    return b"".join(
        b"\\" + text[at : at + 1] if text[at] in b"*?[]\\^-" else text[at : at + 1] for at in range(len(text))
    )
