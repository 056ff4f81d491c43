"""The connection of a history store to Redis: calls with one retry after a failover, scripts, scans and eviction checks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tsa.errors import ConfigError, HistoryUnavailable
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

AT_ONCE = 1000
CHECK_SECONDS = 30.0
"""How often the server's eviction policy is checked."""

_log = logging.getLogger(__name__)


class RedisConnection:
    """A server, or the node of a cluster that has the store's keys."""

    def __init__(self, address: RedisAddress, key: bytes, *, allow_eviction: bool) -> None:
        """Args:
        key: any key of the store; it shows which node of a cluster has them.
        """
        self._address, self._name, self._key = address, address.name, key
        self._allow_eviction, self._check_at = allow_eviction, 0.0
        self.client: Any = address.client()
        self._scripts: dict[str, Any] = {}
        self._connected = False
        self._failed: Callable[[str], object] = lambda reason: None

    def connect(self) -> None:
        """Connect, and switch to a cluster client if the server is a node of a cluster. Raises HistoryUnavailable."""
        if self._connected:
            return
        with refusing(self._name):
            self.client.ping()
        if is_cluster(self.client, self._name):
            one, self.client = self.client, self._address.cluster()
            one.close()
        self._connected = True

    def check_settings(self, *, may_evict: bool) -> None:
        """Check whether the server may evict keys, and warn if a crash may lose data.

        Raises:
            HistoryUnavailable: the server does not answer.
            ConfigError: it may evict keys and `may_evict` is false.
        """
        server = self.node()
        if (policy := eviction_policy(server, self._name)) is not None:
            text = f"Redis may drop histories when its memory is full (maxmemory-policy {policy}): set it to noeviction"
            if not may_evict:
                raise ConfigError(f"{text}, or allow it by --allow-eviction")
            _log.warning("%s; an evicted history is detected and not used for scoring", text)
        note_durability(server, self._name)
        self._check_at = time.monotonic() + CHECK_SECONDS

    def check_eviction(self, *, now: bool = False) -> None:
        """Check the eviction policy now and then: a different server may be at the address by now.

        Raises:
            HistoryUnavailable: the server may evict keys, which is not allowed.
        """
        if now:
            self._check_at = 0.0
        if self._allow_eviction or time.monotonic() < self._check_at:
            return
        if (policy := eviction_policy(self.node(), self._name)) is not None:
            text = f"Redis {self._name} may drop histories when its memory is full (maxmemory-policy {policy})"
            raise HistoryUnavailable(f"{text}: set it to noeviction", "evicting")
        self._check_at = time.monotonic() + CHECK_SECONDS

    def node(self) -> Any:
        """A client of the server that has the store's keys, for commands to a server."""
        return node_of(self.client, self._key)

    def ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call the client. If the server has become a replica, reconnect and call once more."""
        redis = library()
        with refusing(self._name):
            try:
                return call(*arguments)
            except redis.ReadOnlyError:
                self._failed("read_only")
                _log.warning("Redis %s is a replica now (READONLY): connecting again", self._name)
                self.drop()
                return call(*arguments)

    def run(self, script: str, keys: list[bytes], arguments: Sequence[bytes | int] = ()) -> Any:
        """Run a Lua script."""
        if script not in self._scripts:
            self._scripts[script] = self.client.register_script(script)
        return self.ask(lambda: self._scripts[script](keys=keys, args=arguments))

    def scan(self, start: bytes) -> Iterator[list[bytes]]:
        """All keys with this prefix, in batches, each once, although Redis may return a key twice."""
        returned: set[bytes] = set()
        cursor = 0
        while True:
            with refusing(self._name):
                cursor, batch = self.node().scan(cursor, match=_literal(start) + b"*", count=AT_ONCE)
            keys = [key for key in dict.fromkeys(batch) if key not in returned]
            returned.update(keys)
            yield keys
            if cursor == 0:
                return

    def drop(self) -> None:
        """Close idle connections, so that the next call resolves the address again."""
        drop_connections(self.client)

    def close(self) -> None:
        """Close all connections."""
        self.client.close()

    def on_failure(self, call: Callable[[str], object]) -> None:
        """Set a function to call with the reason when a call has failed and is retried."""
        self._failed = call


def _literal(text: bytes) -> bytes:
    """Escape a text for use in a glob pattern."""
    return b"".join(
        b"\\" + text[at : at + 1] if text[at] in b"*?[]\\^-" else text[at : at + 1] for at in range(len(text))
    )
