"""POST to a webhook: what a server may answer, and no message has the address."""

from __future__ import annotations

import socket
import threading

import pytest

from tsa.webhooks import WebhookError, address_problem, post

SECRET = "services-T0-xyz"


def answering(answer: bytes) -> int:
    """The port of a server that gives one answer, whatever it is asked."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server, server.accept()[0] as link:
            link.recv(65_536)
            link.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "may_pass"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", True),
        (b"nonsense\r\n\r\n", True),
        (b"", True),
    ],
)
def test_answers(answer: bytes, may_pass: bool | None) -> None:
    url = f"http://127.0.0.1:{answering(answer)}/{SECRET}"
    if may_pass is None:
        post(url, b"{}", {}, 5.0)
        return
    with pytest.raises(WebhookError) as refused:
        post(url, b"{}", {}, 5.0)
    assert refused.value.may_pass == may_pass
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["", "ftp://host/x", "file:///etc/passwd", "http://", "https://host:x/", "https://a b/", "https://u:p@host/"]
)
def test_addresses_that_are_none(url: str) -> None:
    assert address_problem(url) is not None
    assert address_problem("https://hooks.example.org:8443/services/T0") is None
