"""Send a JSON document to a webhook. What it says and how often it is tried is bounded; its address is a secret."""

from __future__ import annotations

import http.client
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tsa.errors import ConfigError

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
PAUSES_SECONDS = (1.0, 5.0)
"""Before the second and the third try; there is no fourth."""
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which another try makes sense."""
PRINTABLE = re.compile(r"[!-~]+")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send the token to another server, and turn the POST into a GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """An address that takes JSON by POST, such as those of chat programs and pagers.

    Attributes:
        url: http or https. It often is a secret, so that only its host is ever logged.
        token: Sent as `Authorization: Bearer`, if there is one.

    Raises:
        ConfigError: For any other address.
    """

    url: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and bool(PRINTABLE.fullmatch(self.url))
            valid = valid and (parts.port is None or parts.port > 0)
        except ValueError:
            valid = False
        if not valid:
            raise ConfigError("the webhook must be an address such as https://HOST/PATH, without spaces")
        if "@" in parts.netloc:
            raise ConfigError("the address of the webhook must have no user or password; use --webhook-token-env")
        if self.token is not None and not PRINTABLE.fullmatch(self.token):
            raise ConfigError("the token of the webhook must have printable ASCII characters only, and no spaces")

    @property
    def host(self) -> str:
        """What may be logged."""
        return urlsplit(self.url).hostname or ""

    def send(self, document: Mapping[str, Any], pause: Callable[[float], object] = time.sleep) -> bool:
        """Send a document, at most three times.

        Args:
            document: Plain JSON values.
            pause: Waits so many seconds.

        Returns:
            Whether the server took it. If not, a warning in the log says why; nothing is raised.
        """
        body = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        problem = ""
        for before in (0.0, *PAUSES_SECONDS):
            if before:
                pause(before)
            problem, may_pass = self._tried(body)
            if not problem:
                return True
            if not may_pass:
                break
        logger.warning("the webhook at %s was not reached: %s", self.host, problem)
        return False

    def _tried(self, body: bytes) -> tuple[str, bool]:
        """Why a try failed, empty if it did not; and whether another one makes sense. The address is in neither."""
        headers = {"Content-Type": "application/json", "User-Agent": "tsa-monitor"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_SECONDS).close()
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answered with HTTP {error.code}", error.code in TEMPORARY
        except urllib.error.URLError as error:
            reason = error.reason
            return (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__, True
        except (OSError, ValueError, http.client.HTTPException) as error:
            return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__, True
        return "", False
