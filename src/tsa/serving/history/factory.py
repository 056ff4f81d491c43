"""Open a history store by its URL."""

from __future__ import annotations

from tsa.errors import ConfigError
from tsa.serving.history.base import HistoryStore, New
from tsa.serving.history.identity import Seen


def open_history(
    url: str,
    timeout_seconds: float = 5.0,
    *,
    new: New = "make",
    seen: Seen | None = None,
    allow_eviction: bool = False,
) -> HistoryStore:
    """Open the store at a URL. Messages never contain secret parts of the URL.

        sqlite:///relative.db, sqlite:////absolute.db     [?synchronous=full] [&timeout_seconds=5]
        redis://host:6379/0, rediss://, unix://           [?timeout_seconds=5] [&prefix=tsa]

    Args:
        timeout_seconds: default, if the URL has none.
        new: what to do if the store is new.
        seen: state as read by another process; the store is then not checked before its first use.
        allow_eviction: warn of a Redis that may evict keys, instead of refusing it.

    Raises:
        ConfigError: the URL is invalid, or the Redis library is missing.
        HistoryError: the store is new and `new` is "refuse".
        HistoryLost: the store has lost its identity.
        HistoryUnavailable: the store cannot be opened.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from tsa.serving.history.sqlite_store import SQLiteStore

        return SQLiteStore.open(url, timeout_seconds, new=new, seen=seen)
    if scheme in ("redis", "rediss", "unix"):
        from tsa.serving.history.redis_store import RedisStore

        return RedisStore.open(url, timeout_seconds, new=new, seen=seen, allow_eviction=allow_eviction)
    raise ConfigError("history must be like sqlite:///histories.db or redis://localhost:6379/0")
