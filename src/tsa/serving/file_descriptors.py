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

_logged_at: dict[str, float] = {}


def allow_many() -> None:
    """Raise the soft limit of open files to the hard limit: 1024 is too few for many connections."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, OSError, ValueError) as error:
        logger.info("the limit of open files cannot be raised: %s", error)


def warn_if_descriptors_run_out() -> None:
    """Log a warning when nearly all allowed files are open."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        used = len(os.listdir("/proc/self/fd"))
    except (ImportError, FileNotFoundError):
        return
    except OSError as error:  # no descriptor is left even for this check
        if error.errno in EXHAUSTED:
            log_rarely(
                "no open files are left: connections are refused until others are closed; raise the limit with ulimit -n"
            )
        return
    if used >= NEARLY * limit:
        log_rarely(
            f"{used} of {limit} open files are in use; if all are, connections are refused: raise the limit with ulimit -n"
        )


def log_once_a_while(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop, without its text, which may contain values; missing resources are named."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        reason = os.strerror(error.errno or 0).lower()
        log_rarely(f"a connection was refused: {reason}; raise the limit with ulimit -n")
        return
    log_rarely(f"the event loop: {context.get('message', 'trouble')} ({type(error).__name__})")


def log_rarely(text: str) -> None:
    """Log a text, unless it was logged shortly before."""
    now, kind = time.monotonic(), text[:12]
    if now - _logged_at.get(kind, -RETRY_SECONDS) >= RETRY_SECONDS:
        _logged_at[kind] = now
        logger.error("%s", text)
