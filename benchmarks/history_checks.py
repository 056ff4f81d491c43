"""What it costs to notice a lost store: a payment's calls of the store, with the checks and without them, side by side.

    python benchmarks/history_checks.py [--redis redis://127.0.0.1:6379/0] [--payments 3000] [--new-keys]

A payment reads its record and two blocks and writes all three. Without: the same store, but for identity, generation and marks,
the look at the file, and the set of keys. The two take turns, of 20 payments each; printed are the medians over turns and
their ratio.
Without --redis, stores are new SQLite files; in Redis they are made under prefixes of their own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tsa.serving.history import redis_scripts, sqlite_rows
from tsa.serving.history.base import PAYMENTS, HistoryStore, WriteBatch
from tsa.serving.history.factory import open_history
from tsa.serving.history.redis_client import library
from tsa.serving.history.redis_store import RedisStore
from tsa.serving.history.sqlite_store import SQLiteStore

TURN, KEYS, BLOCK_BYTES, RECORD_BYTES = 20, 500, 4000, 400
PLAIN_COMMIT = """
for i = 5, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, 7) ~= ARGV[3 * i - 11] then return 0 end
end
for i = 5, #KEYS do
  local what = ARGV[3 * i - 10]
  if what == 'put' or what == 'new' then redis.call('SET', KEYS[i], ARGV[3 * i - 9])
  elseif what ~= 'keep' then redis.call('DEL', KEYS[i]) end
end
return 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", help="URL of a Redis without settings; by default SQLite")
    parser.add_argument("--payments", type=int, default=3000, help="of each way")
    parser.add_argument("--new-keys", action="store_true", help="no payment has a past")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tsa-checks-") as folder:
        urls = [
            f"{arguments.redis}?prefix={os.urandom(4).hex()}"
            if arguments.redis
            else f"sqlite:///{Path(folder) / name}.db"
            for name in ("with", "without")
        ]
        with open_history(urls[0]) as checked, open_history(urls[1]) as plain:
            without_checks(plain)
            seconds: dict[str, list[float]] = {"with": [], "without": []}
            for first in range(0, max(2 * TURN, arguments.payments), TURN):
                for name, store in (("with", checked), ("without", plain)):
                    begun = time.perf_counter()
                    for count in range(first, first + TURN):
                        one_payment(store, count, count if arguments.new_keys else count % KEYS)
                    seconds[name].append((time.perf_counter() - begun) / TURN)
    medians = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    for name, found in medians.items():
        print(f"{name:8} {1e6 * found:8.0f} µs a payment")
    print(f"ratio    {medians['with'] / medians['without']:8.3f}")
    if arguments.redis:
        print(f"key set  {key_set_bytes(arguments.redis):8.0f} bytes a payment, with ids of 32 characters")


def key_set_bytes(url: str, payments: int = 100_000) -> float:
    """Memory of the set with the keys of payments in Redis, per payment."""
    client, name = library().Redis.from_url(url), f"{{{os.urandom(4).hex()}}}:.:keys"
    with client.pipeline(transaction=False) as pipeline:
        for number in range(payments):
            pipeline.sadd(name, f"{{tsa}}::{number:032x}")
            if number % 5000 == 4999:
                pipeline.execute()
        pipeline.execute()
    size = client.memory_usage(name, samples=0)
    client.delete(name)
    return size / payments


def one_payment(store: HistoryStore, number: int, key: int) -> None:
    """What a visit asks of the store."""
    places = [(PAYMENTS, f"p{number}"), ("card", f"c{key}"), ("shop", f"s{key}")]
    found = store.read(places)
    data = {places[0]: os.urandom(RECORD_BYTES), places[1]: os.urandom(BLOCK_BYTES), places[2]: os.urandom(BLOCK_BYTES)}
    assert store.commit(
        WriteBatch(
            expected_versions={place: found[place].version if place in found else None for place in places}, puts=data
        )
    )


def without_checks(store: Any) -> None:
    """Take the checks out of a store."""
    if isinstance(store, RedisStore):
        redis = store._redis
        run: Callable[..., Any] = redis.run

        def plain(script: str, *arguments: Any) -> Any:
            return run(PLAIN_COMMIT if script == redis_scripts.COMMIT else script, *arguments)

        redis.run = plain  # type: ignore[method-assign]
        store._checked_get = lambda keys: redis.ask(redis.client.mget, keys)  # type: ignore[method-assign]
        store._missing = lambda keys: [None] * len(keys)  # type: ignore[method-assign]
        store._guard.note = lambda *_: None  # type: ignore[method-assign]
    elif isinstance(store, SQLiteStore):
        link = store._file.link()
        store._check_store = lambda _: b""  # type: ignore[method-assign]
        store._file.link = lambda: link  # type: ignore[method-assign]
        store.commit = lambda change: _plain_commit(store, change)  # type: ignore[method-assign]


def _plain_commit(store: SQLiteStore, change: WriteBatch) -> bool:
    with store._alone() as link:
        link.execute("begin immediate")
        made = sqlite_rows.is_as_seen(link, change) and sqlite_rows.written(link, change)
        link.execute("commit" if made else "rollback")
    return made


if __name__ == "__main__":
    main()
