"""Limit of open files and connections: raised to the system's maximum, with a log line when it is used up."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from typing import Any

logger = logging.getLogger(__name__)

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
RETRY_SECONDS = 10.0
"""Shortest time between two log lines about the same error, which may occur at each connection."""
NEARLY = 0.9

_said: dict[str, float] = {}


def allow_many() -> None:
    """Raise the soft limit of open files to the hard limit: 1024 is too few for many connections."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, OSError, ValueError) as error:
        logger.info("the limit of open files stays as it is: %s", error)


def look_at_descriptors() -> None:
    """Log a warning when nearly all allowed files are open."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        used = len(os.listdir("/proc/self/fd"))
    except (ImportError, FileNotFoundError):
        return
    except OSError as error:  # no descriptor is left even for this check
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
    """Log an error of the event loop, without its text, which may contain values; missing resources are named."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        said = os.strerror(error.errno or 0).lower()
        say_seldom(f"a connection could not be taken: {said} (ulimit -n raises the limit)")
        return
    say_seldom(f"the event loop: {context.get('message', 'trouble')} ({type(error).__name__})")


def say_seldom(text: str) -> None:
    """Log a text, unless it was logged shortly before."""
    now, kind = time.monotonic(), text[:12]
    if now - _said.get(kind, -RETRY_SECONDS) >= RETRY_SECONDS:
        _said[kind] = now
        logger.error("%s", text)
