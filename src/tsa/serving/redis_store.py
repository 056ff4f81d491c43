"""A history store in Redis, shared by many machines. It knows Redis, and nothing of what it keeps.

Each place is one string: the stamp, eight bytes, and the data. A change is one script, which Redis runs alone: it looks at
all stamps before it writes. What is promised to outlast a crash of Redis itself depends on its own settings: `appendonly
yes` and `appendfsync always` make a change durable before it is acknowledged. All keys share a hash tag, so that a cluster
keeps them on one node, where a script can reach them together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from tsa.errors import ConfigError, HistoryUnavailable
from tsa.serving.history_store import Change, Place, Stored, new_stamp, seconds_of_setting, settings_of

if TYPE_CHECKING:
    from redis import Redis

STAMP_BYTES = 8
SCAN_KEYS = 1000

_COMMIT = """
for i = 1, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, 7) ~= ARGV[3 * i - 2] then return 0 end
end
for i = 1, #KEYS do
  local what = ARGV[3 * i - 1]
  if what == 'put' then redis.call('SET', KEYS[i], ARGV[3 * i])
  elseif what == 'drop' then redis.call('DEL', KEYS[i]) end
end
return 1
"""
"""For each key: the stamp that was seen, or nothing; what to do with it; and what to write there."""

_log = logging.getLogger(__name__)


class RedisStore:
    """See `HistoryStore`."""

    def __init__(self, client: Redis, *, prefix: str = "tsa") -> None:
        """client: one that gives bytes. Raises HistoryUnavailable when the server does not answer."""
        self._client, self._prefix = client, f"{{{prefix}}}"
        self._commit = client.register_script(_COMMIT)
        with _refusing():
            client.ping()
        self._note_durability()

    @classmethod
    def open(cls, url: str, timeout_seconds: float) -> Self:
        """The store behind a URL of the Redis library. Raises ConfigError where the library is missing."""
        redis = _library()
        parts = urlsplit(url)
        own, others = {"timeout_seconds": str(timeout_seconds), "prefix": "tsa"}, dict(parse_qsl(parts.query))
        settings = settings_of(url, {name: others[name] for name in others if name in own}, own)
        seconds = seconds_of_setting("timeout_seconds", settings["timeout_seconds"])
        rest = "&".join(f"{name}={value}" for name, value in others.items() if name not in own)
        try:
            client = redis.Redis.from_url(
                urlunsplit(parts._replace(query=rest)),
                socket_timeout=seconds,
                socket_connect_timeout=seconds,
                decode_responses=False,
            )
            client.connection_pool.make_connection()  # not yet connected: says whether it knows the settings
        except (ValueError, TypeError) as error:
            raise ConfigError(f"history must be like redis://localhost:6379/0, however: {error}") from None
        return cls(client, prefix=settings["prefix"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, places: Sequence[Place]) -> dict[Place, Stored]:
        """See `HistoryStore`."""
        if not places:
            return {}
        with _refusing():
            found: Any = self._client.mget([self._key(place) for place in places])
        return {place: _stored(data) for place, data in zip(places, found, strict=True) if data is not None}

    def commit(self, change: Change) -> bool:
        """See `HistoryStore`."""
        stamp = _packed(new_stamp())
        keys: list[bytes] = []
        arguments: list[bytes] = []
        for place, old in change.seen.items():
            keys.append(self._key(place))
            arguments.append(b"" if old is None else _packed(old))
            if place in change.put:
                arguments += [b"put", stamp + change.put[place]]
            else:
                arguments += [b"drop" if place in change.drop else b"keep", b""]
        with _refusing():
            return bool(self._commit(keys=keys, args=arguments))

    def scan(self, room: str) -> Iterator[tuple[Place, Stored]]:
        """See `HistoryStore`. Each place once, though Redis may name a key twice."""
        told: set[bytes] = set()
        start = self._key((room, ""))
        cursor = 0
        while True:
            with _refusing():
                found: Any = self._client.scan(cursor, match=_literal(start) + b"*", count=SCAN_KEYS)
                cursor, keys = found[0], [key for key in found[1] if key not in told]
                values: Any = self._client.mget(keys) if keys else []
            told.update(keys)
            for key, data in zip(keys, values, strict=True):
                if data is not None:
                    yield (room, key[len(start) :].decode()), _stored(data)
            if cursor == 0:
                return

    def purge(self) -> None:
        """Have the append-only file written anew, without what was dropped. Redis does so in the background."""
        redis = _library()
        with _refusing():
            try:
                self._client.bgrewriteaof()
            except redis.ResponseError as error:
                _log.warning("Redis did not rewrite its append-only file: %s", error)

    def close(self) -> None:
        """See `HistoryStore`."""
        self._client.close()

    def _key(self, place: Place) -> bytes:
        return f"{self._prefix}:{place[0]}:{place[1]}".encode()

    def _note_durability(self) -> None:
        """Warn where an acknowledged payment may be lost when Redis, or its machine, dies."""
        redis = _library()
        with _refusing():
            try:
                found: Any = self._client.config_get("append*")
            except redis.ResponseError:  # managed servers do not tell
                return
        settings = {_text(name): _text(value) for name, value in found.items()}
        if settings.get("appendonly") != "yes" or settings.get("appendfsync") != "always":
            _log.warning(
                "Redis may lose acknowledged payments when it dies: appendonly=%s, appendfsync=%s",
                settings.get("appendonly"),
                settings.get("appendfsync"),
            )


def _library() -> Any:
    try:
        import redis
    except ImportError:
        raise ConfigError(
            "history: redis:// needs the redis library (pip install 'tsa-fraud[redis]'), however: it is not installed"
        ) from None
    return redis


@contextmanager
def _refusing() -> Iterator[None]:
    """What the client raises while the server is away, or busy loading, in the project's words."""
    redis = _library()
    try:
        yield
    except redis.RedisError as error:
        raise HistoryUnavailable(f"history store in Redis does not answer: {error}") from error


def _packed(stamp: int) -> bytes:
    return stamp.to_bytes(STAMP_BYTES, "little")


def _stored(data: bytes) -> Stored:
    return Stored(int.from_bytes(data[:STAMP_BYTES], "little"), data[STAMP_BYTES:])


def _literal(text: bytes) -> bytes:
    """A text that a pattern takes as it is."""
    return b"".join(
        b"\\" + text[at : at + 1] if text[at] in b"*?[]\\^-" else text[at : at + 1] for at in range(len(text))
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
