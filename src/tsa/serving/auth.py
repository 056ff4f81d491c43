"""Authentication: bearer tokens with roles, compared in constant time.

A token is given as `TOKEN`, `TOKEN ROLES` or `TOKEN ROLES NAME`, with the roles separated by commas. Only the digests of
tokens are stored.
"""

from __future__ import annotations

import codecs
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
MIN_TOKEN, MAX_TOKEN = 16, 8192
"""Fewest characters of a token, so that it cannot be guessed, and most, so that it fits into the headers of a request."""

SCORE, ANALYST, ADMIN = "score", "analyst", "admin"
"""The roles: scoring payments, reviewing them in the queue, and administration of the server."""
ROLES = (SCORE, ANALYST, ADMIN)

_INVALID_BYTE = re.compile(r"[^!-~]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class Grant:
    """What a token allows, and whom it was given to."""

    roles: frozenset[str]
    name: str
    """For the log of decisions; without a name, "token" and the first hex digits of the token's digest."""


class BearerTokens:
    """The digests of tokens, each with its roles. Without any token, `given` is False."""

    def __init__(self, lines: Iterable[tuple[str, str]]) -> None:
        """Args:
            lines: tokens as they are given, each with the role of a token that is given without roles.

        Raises:
            ConfigError: a token, role or name that is not allowed, or a token with two names. Contains no token.
        """
        self._grants: dict[bytes, Grant] = {}
        for line, default in lines:
            token, roles, name = _parse(line, default)
            digest = _digest(token)
            before = self._grants.get(digest)
            if before is not None and name and before.name != name and not _is_unnamed(before.name):
                raise ConfigError(f"a token must have one name (got {before.name} and {name})")
            if not name:
                name = before.name if before is not None else f"{UNNAMED}{digest.hex()[:8]}"
            self._grants[digest] = Grant(roles | (before.roles if before is not None else frozenset()), name)

    @property
    def given(self) -> bool:
        """Whether there are any tokens."""
        return bool(self._grants)

    def has(self, role: str) -> bool:
        """Whether there is a token with this role."""
        return any(role in grant.roles for grant in self._grants.values())

    def grant(self, token: str | None) -> Grant | None:
        """What a token allows; None if it is not one of them. Takes constant time."""
        digest = _digest(token or "")
        matching = None
        for known, grant in self._grants.items():
            if hmac.compare_digest(known, digest):
                matching = grant
        return None if token is None else matching


UNNAMED = "token-"
"""How the name of a token without a name begins."""


def _is_unnamed(name: str) -> bool:
    return name.startswith(UNNAMED)


def _parse(line: str, default: str) -> tuple[str, frozenset[str], str]:
    """The token of a line, its roles and its name; the name is empty if there is none. Raises ConfigError."""
    parts = line.split()
    if not 1 <= len(parts) <= 3:
        raise ConfigError(f"a token must be given as TOKEN, TOKEN ROLES or TOKEN ROLES NAME (got {len(parts)} words)")
    token, roles, name = [*parts, default, ""][:3] if len(parts) == 1 else [*parts, ""][:3]
    if _INVALID_BYTE.search(token):
        raise ConfigError("a token must have only printable ASCII characters, as HTTP headers require")
    if len(token) < MIN_TOKEN:
        raise ConfigError(f"a token must have at least {MIN_TOKEN} characters (got {len(token)})")
    if len(token) > MAX_TOKEN:
        raise ConfigError(f"a token must have at most {MAX_TOKEN} characters (got {len(token)})")
    given = frozenset(roles.split(","))
    if not given <= set(ROLES):
        # the word is not named: it may be a part of a token that was given with a space in it
        raise ConfigError(f"the word after a token must be its roles, from {', '.join(ROLES)}, separated by commas")
    if name and (not _NAME.fullmatch(name) or _is_unnamed(name)):
        rule = "must be 1 to 64 letters, digits, dots, dashes, underscores or @, and start with a letter or digit"
        raise ConfigError(f"the name of a token {rule}; it must not start with {UNNAMED!r}")
    return token, given, name


def _check_line(line: str, place: str) -> None:
    """Raise ConfigError, which names the place, for a line that is no token."""
    try:
        _parse(line, SCORE)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def read_tokens(variables: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Read tokens from environment variables and from files (one per line). Raises ConfigError if one has none."""
    lines = []
    for name in variables:
        line = os.environ.get(name, "").strip()
        if not line:
            raise ConfigError(f"the environment variable {name} must contain a token (got an empty value)")
        lines.append(line)
    for path in files:
        stripped = [line.strip() for line in _text_of(path).splitlines()]
        tokens = {number: line for number, line in enumerate(stripped, 1) if line and not line.startswith("#")}
        if not tokens:
            raise ConfigError(f"{path} must contain one token per line (got none)")
        for number, line in tokens.items():
            _check_line(line, f"{path}, line {number}")
        lines += tokens.values()
    return lines


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
    """The tokens of a server, with their roles."""

    def __init__(self, settings: ServeSettings) -> None:
        """Read the tokens. Raises ConfigError."""
        lines = [(line, SCORE) for line in read_tokens(settings.token_env, settings.token_files)]
        self.is_open = not lines
        """Whether everyone may score: no token was given with --token-env or --token-file."""
        lines += [(line, ADMIN) for line in read_tokens(settings.admin_token_env, settings.admin_token_files)]
        self.tokens = BearerTokens(lines)
