"""A connection to Redis: what a URL says, one server or a cluster, what is asked of it, and what its errors mean.

It knows Redis and its library, and nothing of what a history store keeps there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tsa.errors import ConfigError, HistoryUnavailable
from tsa.optional import imported
from tsa.serving.history.base import seconds_of_setting, url_options

LIKE = "history must be like redis://localhost:6379/0"
RETRIES, CLUSTER_RETRIES = 1, 2
"""How often a connection that broke is made anew for one call: never one that does not answer in time."""

_log = logging.getLogger(__name__)


def library() -> Any:
    """The Redis library. Raises ConfigError where it is not installed."""
    return imported("history redis://", "redis", "redis")


class RedisAddress:
    """What a URL of the Redis library says, and the settings that are the store's own. Messages hold nothing of a password."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        """Raises ConfigError for a URL that cannot be one, and where the library is missing."""
        library()
        rest = url.partition("://")[2]
        before, at, _ = rest.rpartition("@")
        if "#" in rest or (at and any(mark in before for mark in "/?@")):
            raise ConfigError(f"{LIKE}: user and password are written with %23 for #, %2F for /, %3F for ?, %40 for @")
        place, _, query = url.partition("?")
        own, others = url_options(query, {"timeout_seconds": str(timeout_seconds), "prefix": "tsa"})
        try:
            parts = urlsplit(place)
            self.name = (
                f"{parts.hostname or ''}:{parts.port or 6379}{parts.path}" if parts.scheme != "unix" else parts.path
            )
        except ValueError:
            raise ConfigError(f"{LIKE}: its port must be a number") from None
        if parts.scheme != "unix" and not (parts.path in ("", "/") or parts.path[1:].isdecimal()):
            raise ConfigError(f"{LIKE}: what follows the host must be the number of a database")
        self.prefix = own["prefix"]
        self.seconds = seconds_of_setting("timeout_seconds", own["timeout_seconds"])
        self._url = place + ("?" + "&".join(f"{name}={value}" for name, value in others.items()) if others else "")
        try:
            self.client().connection_pool.make_connection()  # not yet connected: says whether it knows the settings
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(f"{LIKE}, with settings that the Redis library knows (got {sorted(others)})") from None

    def client(self) -> Any:
        """A client of the server at this address."""
        redis = library()
        return redis.Redis.from_url(self._url, **self._options(RETRIES, redis.ConnectionError))

    def cluster(self) -> Any:
        """A client of the cluster that this address is one node of. Raises HistoryUnavailable."""
        redis = library()
        with refusing(self.name):
            return redis.RedisCluster.from_url(self._url, **self._options(CLUSTER_RETRIES, redis.ConnectionError))

    def _options(self, retries: int, *errors: type[Exception]) -> dict[str, Any]:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return {
            "socket_timeout": self.seconds,
            "socket_connect_timeout": self.seconds,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), retries, supported_errors=errors),
        }


def node_of(client: Any, key: bytes) -> Any:
    """The client of the one server that keeps this key: for what is asked of a server, not of a key."""
    if not hasattr(client, "get_node_from_key"):
        return client
    return client.get_redis_connection(client.get_node_from_key(key))


def drop_connections(client: Any) -> None:
    """Close connections that nobody uses: the next call asks for the address again."""
    if hasattr(client, "disconnect_connection_pools"):
        client.disconnect_connection_pools()
    else:
        client.connection_pool.disconnect(inuse_connections=False)


def is_cluster(server: Any, name: str) -> bool:
    """Whether the server is a node of a cluster. Raises HistoryUnavailable."""
    return bool(_told(server, name, "cluster").get("cluster_enabled"))


def eviction_policy(server: Any, name: str) -> str | None:
    """What the server does when its memory is full, where that is to drop keys; None where it drops none, or does not tell."""
    policy = _told(server, name, "memory").get("maxmemory_policy", "noeviction")
    return None if policy == "noeviction" else str(policy)


def note_durability(server: Any, name: str) -> None:
    """Warn where an acknowledged payment may be lost when Redis, or its machine, dies."""
    redis = library()
    with refusing(name):
        try:
            found: Any = server.config_get("append*")
        except redis.ResponseError:  # managed servers do not tell
            return
    settings = {_text(key): _text(value) for key, value in found.items()}
    if settings.get("appendonly") != "yes" or settings.get("appendfsync") != "always":
        _log.warning(
            "Redis may lose acknowledged payments when it dies: appendonly=%s, appendfsync=%s",
            settings.get("appendonly"),
            settings.get("appendfsync"),
        )


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """What the client raises while the server is away, full, or busy loading, in the project's words."""
    redis = library()
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise HistoryUnavailable(f"history store in Redis {name} does not answer: {error}", reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Why a call failed, by the kind of the error, and by the code that a server's answer begins with."""
    redis = library()
    kinds = {
        redis.TimeoutError: "slow",
        redis.exceptions.BusyLoadingError: "loading",
        redis.exceptions.AuthenticationError: "denied",
        redis.exceptions.AuthorizationError: "denied",
        redis.exceptions.NoPermissionError: "denied",
        redis.exceptions.MasterDownError: "away",
        redis.exceptions.ClusterError: "cluster",
        redis.exceptions.AskError: "cluster",
        redis.exceptions.RedisClusterException: "cluster",
        redis.ReadOnlyError: "read_only",
        redis.exceptions.OutOfMemoryError: "memory",
        redis.ConnectionError: "away",
        OSError: "away",
    }
    for kind, reason in kinds.items():
        if isinstance(error, kind):
            return reason
    code = str(error).partition(" ")[0].lstrip("-")
    codes = {"OOM": "memory", "MISCONF": "disk_full", "NOREPLICAS": "read_only", "READONLY": "read_only"}
    return codes.get(code, "other")


def _told(server: Any, name: str, section: str) -> dict[str, Any]:
    """What the server says of itself; nothing where it does not let this client ask."""
    redis = library()
    with refusing(name):
        try:
            found: dict[str, Any] = server.info(section)
        except redis.exceptions.NoPermissionError:
            _log.warning("Redis does not let this user ask for INFO %s: whether it may drop keys is not known", section)
            return {}
    return {_text(key): value for key, value in found.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
