"""POST to a webhook. Its address often is a secret: no redirect is followed, and no message contains it."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which another try makes sense."""
PRINTABLE = re.compile(r"[!-~]+")


class WebhookError(Exception):
    """The webhook did not accept a document. The text says why; `may_pass` whether another try makes sense."""

    def __init__(self, problem: str, *, may_pass: bool) -> None:
        super().__init__(problem)
        self.may_pass = may_pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send the document to another server, and turn the POST into a GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def address_problem(url: str) -> str | None:
    """What is wrong with the address of a webhook, in words that do not contain it; None if nothing is."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and bool(PRINTABLE.fullmatch(url))
        valid = valid and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        return "must be an address such as https://HOST/PATH, without spaces"
    return (
        "must have no user or password in its address; give them by their own option" if "@" in parts.netloc else None
    )


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> None:
    """Send JSON, and wait until it is accepted.

    Args:
        url: An address in which `address_problem` finds nothing.
        body: The document.
        headers: More headers, such as a token or a signature.
        timeout_seconds: How long to wait for the server at each step.

    Raises:
        WebhookError: The answer is not 2xx, or the server was not reached in time.
    """
    all_headers = {"Content-Type": "application/json", "User-Agent": "tsa", **headers}
    request = urllib.request.Request(url, body, all_headers, method="POST")
    try:
        urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise WebhookError(f"it answered with HTTP {error.code}", may_pass=error.code in TEMPORARY) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        problem = (cause.strerror if isinstance(cause, OSError) else None) or type(cause).__name__
        raise WebhookError(problem, may_pass=True) from None
