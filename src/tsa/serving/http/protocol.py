"""uvicorn's HTTP protocol with limits on request heads, and a delayed close so that early answers arrive.

Larger request lines, headers and trailers get 431. If a request is answered before its body was read (for example 413), the
rest is read and dropped for a while, because an immediate close would reset the connection before the answer arrives.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tsa.serving.problems import CONTENT_TYPE, ProblemError, encode

logger = logging.getLogger(__name__)

MAX_HEAD, MAX_HEADERS = 32 * 2**10, 100
"""Most bytes of a request line with its headers, and most headers; uvicorn itself has no limit."""
LINGER_SECONDS = 10.0
"""How long, after an early answer, data from the client is dropped before the connection is closed."""
LOG_SECONDS = 60.0
"""Shortest time between two log lines about such refusals."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _logged = -LOG_SECONDS

    def connection_made(self, transport: Any) -> None:
        """Like uvicorn's, with a transport that delays its close."""
        self._head = self._unheard = 0
        self._too_large = self._broken = False
        super().connection_made(Lingering(transport, self.loop, self._sends_more))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Like uvicorn's, and counts bytes that the parser has buffered."""
        if self.transport.is_closing():
            return
        self._unheard += len(data)
        super().data_received(data)
        if self._unheard > MAX_HEAD and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._count(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            self._count(MAX_HEAD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._unheard = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unheard = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._unheard = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed, or is too large, with a problem."""
        self._broken = True
        if self._too_large:
            detail = (
                f"the request line and headers must have at most {MAX_HEAD} bytes, and be at most {MAX_HEADERS} headers"
            )
            refused = ProblemError(431, "head_too_large", detail)
            if time.monotonic() - Protocol._logged > LOG_SECONDS:
                Protocol._logged = time.monotonic()
                logger.warning("a request with too large a head was refused (431); others are not logged for a minute")
        else:
            refused = ProblemError(400, "request", "the request must be HTTP/1.1")
        document = refused.document(secrets.token_hex(8))
        body = encode(document)
        head = f"HTTP/1.1 {refused.status} {document['title']}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            self._too_large = True
            raise ValueError("the head is too large")  # the parser stops, and uvicorn calls send_400_response

    def _sends_more(self) -> bool:
        """Whether the client may still be sending what nobody will read."""
        return self._broken or (self.cycle is not None and self.cycle.more_body)


class Lingering:
    """A transport that closes once the client stops sending, or after LINGER_SECONDS."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, sends_more: Any) -> None:
        self._transport, self._loop, self._sends_more = transport, loop, sends_more
        self._lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it is closed or about to close."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close after dropping what the client still sends. A second call closes at once."""
        if self._lingers or self._transport.is_closing() or not self._sends_more():
            self._transport.close()
            return
        self._lingers = True
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._transport.resume_reading()
        except (OSError, RuntimeError):
            self._transport.close()
            return
        self._loop.call_later(LINGER_SECONDS, self._transport.close)
