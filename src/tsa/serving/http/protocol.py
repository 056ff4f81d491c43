"""uvicorn's HTTP protocol with limits on request heads, time limits for slow clients, and a delayed close.

Larger request lines, headers and trailers get 431, and heads that arrive too slowly 408. If a request is answered before its
body was read (for example 413), the rest is read and dropped for a while, because an immediate close would reset the
connection before the answer arrives. A client that does not read its answers is disconnected.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tsa.serving.problems import CONTENT_TYPE, ProblemError, encode

logger = logging.getLogger(__name__)

MAX_HEAD, MAX_HEADERS = 32 * 2**10, 100
"""Largest number of bytes of a request line with its headers, and of headers; uvicorn itself has no limit."""
HEAD_SECONDS = 10.0
"""How long a request line with its headers may take to arrive, from its first byte."""
WRITE_SECONDS = 30.0
"""How long a client may leave an answer unread that the buffers of the connection cannot take."""
LINGER_SECONDS = 10.0
"""How long, after an early answer, data from the client is dropped before the connection is closed."""
LOG_SECONDS = 60.0
"""Shortest time between two log lines about such refusals."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        """Like uvicorn's, with a transport that delays its close."""
        self._head = self._unparsed_bytes = 0
        self._too_large = self._too_slow = self._broken = self._head_is_complete = False
        self._running: RequestResponseCycle | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._write_limit: asyncio.TimerHandle | None = None
        super().connection_made(Lingering(transport, self.loop, self._sends_more))  # type: ignore[arg-type]
        self._within(self.timeout_keep_alive, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Like uvicorn's."""
        self._within()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Like uvicorn's, and counts bytes that the parser has buffered."""
        if self._broken or self.transport.is_closing():
            return
        if not self._head_is_complete and (self._limit is None or not self._unparsed_bytes):
            self._within(HEAD_SECONDS, self._head_is_late)
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = 0
        if self._limit is None:
            self._within(HEAD_SECONDS, self._head_is_late)
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
        self._unparsed_bytes, self._head_is_complete = 0, True
        self._within()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._unparsed_bytes, self._head_is_complete = 0, False
        self._within()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is complete. What is left of its request must arrive soon."""
        super().on_response_complete()
        if self._head_is_complete and not self.transport.is_closing():
            self._within(LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._write_limit = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        if self._write_limit is not None:
            self._write_limit.cancel()
            self._write_limit = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed, is too large or too slow, with a problem; answer those before it first."""
        self._broken = True
        self._within()
        if self._drop_broken():
            return
        if self._too_large:
            detail = (
                f"the request line and headers must have at most {MAX_HEAD} bytes, and be at most {MAX_HEADERS} headers"
            )
            refused = ProblemError(431, "head_too_large", detail)
            _log_seldom("a request with too large a head was refused (431)")
        elif self._too_slow:
            detail = f"the request line and headers must arrive within {HEAD_SECONDS:g} seconds"
            refused = ProblemError(408, "slow_head", detail)
            _log_seldom("a request whose head came too slowly was refused (408)")
        else:
            refused = ProblemError(400, "request", "the request must be HTTP/1.1")
        document = refused.document(secrets.token_hex(8))
        body = encode(document)
        head = f"HTTP/1.1 {refused.status} {document['title']}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _drop_broken(self) -> bool:
        """Drop the request whose body is broken. Returns whether answers to earlier ones are due, which end the connection."""
        last, due = self.cycle, [*(cycle for cycle, _ in self.pipeline)]
        if self._running is not None and not self._running.response_complete:
            due.append(self._running)
        if last is not None and last.more_body and last in due:
            due.remove(last)
            self.pipeline = deque(pair for pair in self.pipeline if pair[0] is not last)
            last.disconnected = True
            last.message_event.set()
        if due:
            due[0].keep_alive = False  # the latest of them
            self.flow.resume_reading()
        return bool(due)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            self._too_large = True
            raise ValueError("the head is too large")  # the parser stops, and uvicorn calls send_400_response

    def _within(self, seconds: float = 0.0, call: Callable[[], object] | None = None) -> None:
        """Set the time limit of what the client has to send next; without arguments, end it."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = None if call is None else self.loop.call_later(seconds, call)

    def _head_is_late(self) -> None:
        self._limit = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:  # nothing is read while an answer is made
            self._within(HEAD_SECONDS, self._head_is_late)
            return
        self._too_slow = True
        self.send_400_response("")

    def _sends_more(self) -> bool:
        """Whether the client may still be sending what nobody will read."""
        return self._broken or (self.cycle is not None and self.cycle.more_body)


_logged: dict[str, float] = {}


def _log_seldom(text: str) -> None:
    if time.monotonic() - _logged.get(text, -LOG_SECONDS) > LOG_SECONDS:
        _logged[text] = time.monotonic()
        logger.warning("%s; others are not logged for a minute", text)


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
            self._close()
            return
        self._lingers = True
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._transport.resume_reading()
        except (OSError, RuntimeError):
            self._close()
            return
        self._loop.call_later(LINGER_SECONDS, self._close)

    def _close(self) -> None:
        self._transport.close()
        if self._transport.get_write_buffer_size():  # close waits until the client has read all of it
            self._loop.call_later(WRITE_SECONDS, self._transport.abort)
