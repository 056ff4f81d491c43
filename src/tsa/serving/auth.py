"""Authentication and rate limits: bearer tokens, compared in constant time, and a token bucket for each client.

Only the digests of tokens are stored.
"""

from __future__ import annotations

import codecs
import hashlib
import hmac
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tsa.errors import ConfigError
from tsa.files.reading import read_small_file
from tsa.serving.settings import ServeSettings

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks of other encodings; the longer ones first."""
MAX_CLIENTS = 10_000
MIN_TOKEN, MAX_TOKEN = 16, 8192
"""Fewest characters of a token, so that it cannot be guessed, and most, so that it fits into the headers of a request."""


_INVALID_BYTE = re.compile(r"[^!-~]")


class BearerTokens:
    """The digests of the tokens for one kind of access. Without any token, `given` is False."""

    def __init__(self, tokens: Sequence[str]) -> None:
        if any(_INVALID_BYTE.search(token) for token in tokens):
            raise ConfigError(
                "a token must have only printable ASCII characters without spaces, as HTTP headers require"
            )
        if short := [token for token in tokens if len(token) < MIN_TOKEN]:
            raise ConfigError(f"a token must have at least {MIN_TOKEN} characters (got {len(short[0])})")
        if long := [token for token in tokens if len(token) > MAX_TOKEN]:
            raise ConfigError(f"a token must have at most {MAX_TOKEN} characters (got {len(long[0])})")
        self._digests = [_digest(token) for token in tokens]

    @classmethod
    def read(cls, variables: Sequence[str], files: Sequence[Path]) -> BearerTokens:
        """Read tokens from environment variables and from files (one per line). Raises ConfigError if one has none."""
        read_tokens = []
        for name in variables:
            token = os.environ.get(name, "").strip()
            if not token:
                raise ConfigError(f"the environment variable {name} must contain a token (got an empty value)")
            read_tokens.append(token)
        for path in files:
            lines = [line.strip() for line in _text_of(path).splitlines()]
            tokens = [line for line in lines if line and not line.startswith("#")]
            if not tokens:
                raise ConfigError(f"{path} must contain one token per line (got none)")
            read_tokens += tokens
        return cls(read_tokens)

    @property
    def given(self) -> bool:
        """Whether there are any tokens."""
        return bool(self._digests)

    def matches(self, token: str | None) -> bool:
        """Whether this is one of the tokens. Takes constant time."""
        digest = _digest(token or "")
        is_known = False
        for known in self._digests:
            is_known |= hmac.compare_digest(known, digest)
        return is_known and token is not None


def _text_of(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, as on Windows. Raises ConfigError."""
    data = read_small_file(path)
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} must be a text in UTF-8, or in UTF-16 with a byte order mark") from None
    if "\0" in text:
        raise ConfigError(f"{path} must be a text in UTF-8, or in UTF-16 with a byte order mark (got zero bytes)")
    return text


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def bearer(header: str | None) -> str | None:
    """The token in an Authorization header."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


class Credentials:
    """The tokens of a server: for scoring and for administration."""

    def __init__(self, settings: ServeSettings) -> None:
        self.score = BearerTokens.read(settings.token_env, settings.token_files)
        self.admin = BearerTokens.read(settings.admin_token_env, settings.admin_token_files)


class TokenBucketLimiter:
    """A token bucket per client, refilled with `rate` tokens a second up to `burst`. `rate` None: no limit."""

    def __init__(self, rate: float | None, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, client: str, count: float = 1.0, *, min_tokens: float = 0.0) -> int | None:
        """Take `count` tokens if there are more than `min_tokens`.

        A bucket may go below zero, because the number of payments is only known after the body was read.

        Returns:
            None, or the seconds to wait if there were too few tokens.
        """
        if self._rate is None:
            return None
        now = self._clock()
        level, then = self._levels.get(client, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        if level < min_tokens:
            return max(1, math.ceil((min_tokens - level) / self._rate))
        if len(self._levels) >= MAX_CLIENTS and client not in self._levels:
            self._forget()
        self._levels[client] = (level - count, now)
        return None

    def _forget(self) -> None:
        """Delete the least recently used half: their buckets are the fullest, and a full one is the same as none."""
        oldest = sorted(self._levels, key=lambda name: self._levels[name][1])[: MAX_CLIENTS // 2]
        for name in oldest:
            del self._levels[name]
