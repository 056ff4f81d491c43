"""Who may do what, and how much: bearer tokens, compared in constant time, and a bucket of payments for each client.

Only the digests of tokens are kept. It knows neither routes nor payments.
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
from tsa.serving.settings import ServeSettings

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How files of other encodings begin; the longer marks first."""
MAX_CLIENTS = 10_000
MIN_TOKEN = 16
"""Characters of a token that cannot be guessed."""


_ODD = re.compile(r"[^!-~]")


class BearerTokens:
    """The digests of tokens that open a door. Without any, `given` is False."""

    def __init__(self, tokens: Sequence[str]) -> None:
        if any(_ODD.search(token) for token in tokens):
            raise ConfigError(
                "a token must be of letters, digits and signs of ASCII, without spaces: no header holds another"
            )
        if short := [token for token in tokens if len(token) < MIN_TOKEN]:
            raise ConfigError(f"a token must have at least {MIN_TOKEN} characters (got {len(short[0])})")
        self._digests = [_digest(token) for token in tokens]

    @classmethod
    def read(cls, variables: Sequence[str], files: Sequence[Path]) -> BearerTokens:
        """Tokens in environment variables and in files, one a line. ConfigError where there is none in one of them."""
        found = []
        for name in variables:
            token = os.environ.get(name, "").strip()
            if not token:
                raise ConfigError(f"the environment variable {name} must hold a token, but it is empty")
            found.append(token)
        for path in files:
            lines = [line.strip() for line in _text_of(path).splitlines()]
            tokens = [line for line in lines if line and not line.startswith("#")]
            if not tokens:
                raise ConfigError(f"{path} must hold a token a line, but it holds none")
            found += tokens
        return cls(found)

    @property
    def given(self) -> bool:
        """Whether there is any token."""
        return bool(self._digests)

    def matches(self, token: str | None) -> bool:
        """Whether this is one of them. It takes as long whichever it is, or is not."""
        digest = _digest(token or "")
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found and token is not None


def _text_of(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 or UTF-32 that say so in their first bytes, as Windows writes them. ConfigError."""
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} must be a text in UTF-8, or in UTF-16 with a byte order mark") from None
    if "\0" in text:
        raise ConfigError(f"{path} must be a text in UTF-8, or in UTF-16 with a byte order mark: it holds zero bytes")
    return text


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def bearer(header: str | None) -> str | None:
    """The token in an Authorization header."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


class Credentials:
    """What the doors of a server are opened with."""

    def __init__(self, settings: ServeSettings) -> None:
        self.score = BearerTokens.read(settings.token_env, settings.token_files)
        self.admin = BearerTokens.read(settings.admin_token_env, settings.admin_token_files)


class TokenBucketLimiter:
    """A bucket of tokens per client, which fills up at `rate` a second to `burst`. `rate` None: no bucket is ever empty."""

    def __init__(self, rate: float | None, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, client: str, count: float = 1.0, *, at_least: float = 0.0) -> int | None:
        """Take `count` tokens if there are more than `at_least`; else after how many whole seconds there will be.

        A bucket may go below zero, where what is taken turns out to be more than was asked for at first.
        """
        if self._rate is None:
            return None
        now = self._clock()
        level, then = self._levels.get(client, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        if level < at_least:
            return max(1, math.ceil((at_least - level) / self._rate))
        if len(self._levels) >= MAX_CLIENTS and client not in self._levels:
            self._forget()
        self._levels[client] = (level - count, now)
        return None

    def _forget(self) -> None:
        """Let go of the half that was used longest ago: their buckets are the fullest, and a full one is as good as none."""
        oldest = sorted(self._levels, key=lambda name: self._levels[name][1])[: MAX_CLIENTS // 2]
        for name in oldest:
            del self._levels[name]
