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
    """The store behind a URL. timeout_seconds: where the URL does not say. seen: how another process has seen the store; it
    is then not looked at before it is used. allow_eviction: a Redis that may drop keys is warned of, not refused.

        sqlite:///relative.db, sqlite:////absolute.db     [?synchronous=full] [&timeout_seconds=5]
        redis://host:6379/0, rediss://, unix://           [?timeout_seconds=5] [&prefix=tsa]

    Raises ConfigError for a URL that is none of these, or where the Redis library is missing, HistoryError for a new store
    where it is to be refused, HistoryLost for one that has lost its identity, HistoryUnavailable when the store cannot be
    opened. Messages hold no part of the URL that may be secret.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from tsa.serving.history.sqlite import SQLiteStore

        return SQLiteStore.open(url, timeout_seconds, new=new, seen=seen)
    if scheme in ("redis", "rediss", "unix"):
        from tsa.serving.history.redis import RedisStore

        return RedisStore.open(url, timeout_seconds, new=new, seen=seen, allow_eviction=allow_eviction)
    raise ConfigError("history must be like sqlite:///histories.db or redis://localhost:6379/0")
