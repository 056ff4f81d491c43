"""Sees that another bundle stands at a path: a link that points elsewhere, or a folder that was replaced."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tsa.serving.problems import RefusedError

if TYPE_CHECKING:
    from tsa.serving.service import Service

logger = logging.getLogger(__name__)

Mark = tuple[str, int, int]
"""Where a path leads, and which file the manifest there is."""


def mark_of(bundle: Path) -> Mark:
    """What tells this bundle from others. A path that leads nowhere has a mark as well."""
    real = os.path.realpath(bundle)
    try:
        found = (Path(real) / "manifest.json").stat()
    except OSError:
        return real, 0, 0
    return real, found.st_ino, found.st_mtime_ns


async def watch(service: Service) -> None:
    """Reload whenever the mark changes, until cancelled. A bundle that is refused is not tried again until it changes."""
    while True:
        await asyncio.sleep(service.settings.watch_seconds)
        mark = mark_of(service.settings.bundle)
        if mark == service.mark or not mark[1]:
            continue
        try:
            await service.reload()
        except RefusedError:
            logger.warning("the bundle before it goes on")
