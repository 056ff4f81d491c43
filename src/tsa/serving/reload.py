"""Which bundle it is, and whether another one stands at its path: a link that leads elsewhere, or a folder replaced."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tsa.scoring.bundle import MANIFEST
from tsa.scoring.scorer import Scorer
from tsa.serving.problems import RefusedError

if TYPE_CHECKING:
    from tsa.serving.service import Service

logger = logging.getLogger(__name__)

Mark = tuple[str, int, int]
"""Where a path leads, and which file the manifest there is, or the archive."""


def mark_of(bundle: Path) -> Mark:
    """What tells this bundle from others. A path that leads nowhere has a mark as well."""
    real = Path(os.path.realpath(bundle))
    try:
        found = (real / MANIFEST if real.is_dir() else real).stat()
    except OSError:
        return str(real), 0, 0
    return str(real), found.st_ino, found.st_mtime_ns


def version_of(scorer: Scorer) -> str:
    """The first 12 hex digits of what the bundle's manifest is sealed with; empty for one that was never saved."""
    return (scorer.bundle.sha256 or "")[:12]


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
