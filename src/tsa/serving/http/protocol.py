"""uvicorn's HTTP protocol, with bounds for what stands before a body, and an end of connections that lets answers arrive.

Request lines, headers, trailers and whatever else a parser keeps until it is whole are bounded; more of it gets 431. Where a
request is answered before all of its body was read (413, say), closing at once would reset the connection, and the client
would see that in place of the answer: what still comes is read and dropped for a while first. It knows no routes.
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
"""Bytes of a request line with its headers, and headers; uvicorn itself has no bound."""
LINGER_SECONDS = 10.0
"""How long what a client still sends is dropped, after its answer, before the connection is closed."""
LOG_SECONDS = 60.0
"""Such refusals are logged so often at most."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _logged = -LOG_SECONDS

    def connection_made(self, transport: Any) -> None:
        """As uvicorn's, with a transport that does not close at once."""
        self._head = self._unheard = 0
        self._too_large = self._broken = False
        super().connection_made(Lingering(transport, self.loop, self._sends_more))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """As uvicorn's. What the parser has taken and not told of yet is counted."""
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
        """The head is whole."""
        self._unheard = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unheard = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._unheard = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, or is too large to be, with a problem."""
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
    """A transport that closes once the client has stopped sending, or after a while."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, sends_more: Any) -> None:
        self._transport, self._loop, self._sends_more = transport, loop, sends_more
        self._lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it closes, or is about to."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close; where the client still sends, drop that first. A second call closes at once."""
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
