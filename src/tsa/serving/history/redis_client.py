"""Connections to Redis: parsing of URLs, clients of a server or a cluster, its settings, and translation of its errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tsa.errors import ConfigError, HistoryUnavailable
from tsa.optional_libraries import imported
from tsa.serving.history.base import seconds_of_setting, url_options

LIKE = "history must be like redis://localhost:6379/0"
RETRIES, CLUSTER_RETRIES = 1, 2
"""Reconnects per call after a broken connection; a timeout is never retried."""
REASONS = {
    "OOM": "memory",
    "MISCONF": "disk_full",
    "NOREPLICAS": "read_only",
    "READONLY": "read_only",
    "BUSY": "busy",
    "WRONGTYPE": "damaged",
}
"""Error codes in answers of Redis -> reasons."""

_log = logging.getLogger(__name__)


def library() -> Any:
    """Import the Redis library. Raises ConfigError if it is not installed."""
    return imported("history redis://", "redis", "redis")


class RedisAddress:
    """A parsed URL of the Redis library, with the store's own settings. `name` and messages never contain a password."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        """Parse a URL. Raises ConfigError if it is invalid, or the library is missing."""
        library()
        rest = url.partition("://")[2]
        before, at, _ = rest.rpartition("@")
        if "#" in rest or (at and any(mark in before for mark in "/?@")):
            raise ConfigError(f"{LIKE}: write # as %23, / as %2F, ? as %3F and @ as %40 in user and password")
        place, _, query = url.partition("?")
        own, options = url_options(query, {"timeout_seconds": str(timeout_seconds), "prefix": "tsa"})
        try:
            parts = urlsplit(place)
            self.name = (
                f"{parts.hostname or ''}:{parts.port or 6379}{parts.path}" if parts.scheme != "unix" else parts.path
            )
        except ValueError:
            raise ConfigError(f"{LIKE}: its port must be a number") from None
        if parts.scheme != "unix" and not (parts.path in ("", "/") or parts.path[1:].isdecimal()):
            raise ConfigError(f"{LIKE}: the part after the host must be a database number")
        self.prefix = own["prefix"]
        self.seconds = seconds_of_setting("timeout_seconds", own["timeout_seconds"])
        self._url = place + ("?" + "&".join(f"{name}={value}" for name, value in options.items()) if options else "")
        try:
            self.client().connection_pool.make_connection()  # does not connect, but checks the settings
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(f"{LIKE}, with settings of the Redis library (got {sorted(options)})") from None

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
    """A client of the server that has this key, for commands to a server."""
    if not hasattr(client, "get_node_from_key"):
        return client
    return client.get_redis_connection(client.get_node_from_key(key))


def drop_connections(client: Any) -> None:
    """Close idle connections, so that the next call resolves the address again."""
    if hasattr(client, "disconnect_connection_pools"):
        client.disconnect_connection_pools()
    else:
        client.connection_pool.disconnect(inuse_connections=False)


def is_cluster(server: Any, name: str) -> bool:
    """Whether the server is a node of a cluster. Raises HistoryUnavailable."""
    return bool(_info(server, name, "cluster").get("cluster_enabled"))


def eviction_policy(server: Any, name: str) -> str | None:
    """The server's eviction policy; None if it evicts no keys, or does not show its policy."""
    policy = _info(server, name, "memory").get("maxmemory_policy", "noeviction")
    return None if policy == "noeviction" else str(policy)


def note_durability(server: Any, name: str) -> None:
    """Log a warning if acknowledged payments may be lost when Redis or its machine crashes."""
    redis = library()
    with refusing(name):
        try:
            config: Any = server.config_get("append*")
        except redis.ResponseError:  # not allowed on managed servers
            _log.warning("Redis does not allow CONFIG: unknown whether a crash may lose acknowledged payments")
            return
    settings = {_text(key): _text(value) for key, value in config.items()}
    if settings.get("appendonly") != "yes" or settings.get("appendfsync") != "always":
        _log.warning(
            "Redis may lose acknowledged payments in a crash: appendonly=%s, appendfsync=%s",
            settings.get("appendonly"),
            settings.get("appendfsync"),
        )


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Translate the client's errors into HistoryUnavailable with a reason."""
    redis = library()
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise HistoryUnavailable(f"history store in Redis {name} does not answer: {error}", reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The reason of a failed call, from the error's class or the error code in the server's answer."""
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
    return REASONS.get(code, "other")


def _info(server: Any, name: str, section: str) -> dict[str, Any]:
    """A section of the server's INFO; empty if this user may not read it."""
    redis = library()
    with refusing(name):
        try:
            info: dict[str, Any] = server.info(section)
        except redis.exceptions.NoPermissionError:
            _log.warning("Redis does not allow this user INFO %s: unknown whether it may evict keys", section)
            return {}
    return {_text(key): value for key, value in info.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
