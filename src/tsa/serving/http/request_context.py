"""Per-request context: client id, deadline, and a size- and time-limited body reader."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from tsa.serving.auth import Grant
from tsa.serving.problems import TOO_LARGE, ProblemError
from tsa.serving.settings import ServeSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

KEY = "tsa.exchange"
"""Key of the context in its ASGI scope."""
MAX_DEADLINE_MS = 600_000
READING = ["GET", "HEAD"]
"""Methods of addresses that can only be read."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_INTEGER = re.compile(r"[0-9]{1,9}")


class RequestContext:
    """A request. `client` identifies the client for the rate limit; `grant` is what its token allows, None for none or an
    unknown one; `status` is the status of the answer."""

    __slots__ = (
        *("_given", "_receive", "_settings", "begun", "client", "grant", "headers", "path", "request_id", "status"),
    )

    def __init__(self, scope: Scope, receive: Receive, settings: ServeSettings) -> None:
        self.begun = time.monotonic()
        self._given: Sequence[tuple[bytes, bytes]] = scope["headers"]
        self.headers: Mapping[bytes, bytes] = dict(self._given)
        self.path: str = scope["path"]
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.client = scope["client"][0] if scope.get("client") else "unknown"
        self.grant: Grant | None = None
        self.status = 0
        self._receive, self._settings = receive, settings

    @classmethod
    def of(cls, scope: Scope) -> RequestContext:
        """The context that the middleware put into a scope."""
        context: RequestContext = scope[KEY]
        return context

    def header(self, name: bytes) -> str | None:
        """A header's value; None if it is missing."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def deadline(self) -> float:
        """On the clock of `time.monotonic`. Raises ProblemError if X-Deadline-Ms is not an integer of milliseconds."""
        text = self.header(b"x-deadline-ms")
        if text is None:
            return self.begun + self._settings.deadline_ms / 1000
        if not _INTEGER.fullmatch(text) or not 1 <= int(text) <= MAX_DEADLINE_MS:
            detail = f"X-Deadline-Ms must be a whole number from 1 to {MAX_DEADLINE_MS}"
            raise ProblemError(400, "deadline_header", detail, field="X-Deadline-Ms", value=text)
        return self.begun + int(text) / 1000

    async def body(self) -> bytes:
        """Read the complete body.

        Raises:
            ProblemError: it is encoded (for example gzip), too large, or too slow; the rest is then not read.
        """
        self._refuse_encoded()
        max_bytes = self._settings.max_bytes
        announced = self.header(b"content-length")
        if announced is not None and announced.isdecimal() and int(announced) > max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(max(0.0, self.begun + self._settings.read_seconds - time.monotonic())):
                return await self._read(max_bytes)
        except TimeoutError:
            raise self._slow() from None

    async def _read(self, max_bytes: int) -> bytes:
        parts, size, more = [], 0, True
        while more:
            message = await self._next()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > max_bytes:
                raise self._too_large()
        return b"".join(parts)

    def _refuse_encoded(self) -> None:
        for name, plain in ((b"content-encoding", "identity"), (b"transfer-encoding", "chunked")):
            for key, value in self._given:
                encoding = value.decode("latin-1").strip().lower()
                if key == name and encoding not in ("", plain):
                    field = name.decode().title()
                    detail = f"the body must be sent as it is: {field} must not be given, or be {plain}"
                    headers = {"Accept-Encoding": "identity", "Connection": "close"}
                    raise ProblemError(415, "content_encoding", detail, field=field, value=encoding, headers=headers)

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ProblemError(400, "disconnected", "the body must arrive completely")
        return message

    def _too_large(self) -> ProblemError:
        detail = f"the body must have at most {self._settings.max_bytes} bytes"
        return ProblemError(TOO_LARGE, "too_large", detail, headers={"Connection": "close"})

    def _slow(self) -> ProblemError:
        detail = f"the body must arrive within {self._settings.read_seconds:g} seconds"
        return ProblemError(408, "slow_body", detail, headers={"Connection": "close"})
