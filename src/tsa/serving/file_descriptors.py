"""Open files and connections: as many as the system allows, and a line in the log when that is not enough."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from typing import Any

logger = logging.getLogger(__name__)

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
AGAIN_SECONDS = 10.0
"""The same trouble is logged this often at most: it may come up with each connection that is tried."""
NEARLY = 0.9

_said: dict[str, float] = {}


def allow_many() -> None:
    """Raise the soft limit of open files to the hard one: 1024 are soon used up by connections."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, OSError, ValueError) as error:
        logger.info("the limit of open files stays as it is: %s", error)


def look_at_descriptors() -> None:
    """Say in the log when nearly all files that may be open are."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        used = len(os.listdir("/proc/self/fd"))
    except (ImportError, FileNotFoundError):
        return
    except OSError as error:  # there is not even one left to look with
        if error.errno in EXHAUSTED:
            say_seldom(
                "open files are used up: no connection is taken until others are closed (ulimit -n raises the limit)"
            )
        return
    if used >= NEARLY * most:
        say_seldom(
            f"{used} of {most} open files are in use: once all are, no connection is taken (ulimit -n raises the limit)"
        )


def log_once_a_while(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's own troubles. Their texts are left out, but for what the system lacks: they may hold values."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        said = os.strerror(error.errno or 0).lower()
        say_seldom(f"a connection could not be taken: {said} (ulimit -n raises the limit)")
        return
    say_seldom(f"the event loop: {context.get('message', 'trouble')} ({type(error).__name__})")


def say_seldom(text: str) -> None:
    """Log it, unless it was logged a moment ago."""
    now, kind = time.monotonic(), text[:12]
    if now - _said.get(kind, -AGAIN_SECONDS) >= AGAIN_SECONDS:
        _said[kind] = now
        logger.error("%s", text)
