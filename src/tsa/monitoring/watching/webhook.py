"""Send a JSON document to a webhook. What it says and how often it is tried is bounded; its address is a secret."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tsa.errors import ConfigError
from tsa.webhooks import PRINTABLE, WebhookError, address_problem, post

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
PAUSES_SECONDS = (1.0, 5.0)
"""Before the second and the third try; there is no fourth."""


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
        if (problem := address_problem(self.url)) is not None:
            raise ConfigError(f"the webhook {problem}")
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
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        problem = ""
        for before in (0.0, *PAUSES_SECONDS):
            if before:
                pause(before)
            try:
                post(self.url, body, headers, TIMEOUT_SECONDS)
                return True
            except WebhookError as error:
                problem = str(error)
                if not error.may_pass:
                    break
        logger.warning("the webhook at %s was not reached: %s", self.host, problem)
        return False
