"""Which bundle it is, and whether another one stands at its path: a link that leads elsewhere, or a folder
whose files are others."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tsa.bundle.bundle import MANIFEST
from tsa.files.platform_files import is_marker
from tsa.inference.scorer import Scorer

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

BundleFileId = tuple[str, tuple[tuple[str, int, int, int, int], ...]]
"""Where a path leads, and which files stand there: name, inode, bytes, times of change of content and of file. Without a
manifest there is nothing."""


def bundle_file_id(bundle: Path) -> BundleFileId:
    """What tells this bundle from others. A path that leads nowhere has a mark as well."""
    real = Path(os.path.realpath(bundle))
    try:
        files = [path for path in real.iterdir() if not is_marker(path.name)] if real.is_dir() else [real]
        if real.is_dir() and not (real / MANIFEST).is_file():
            return str(real), ()
        found = [(path.name, path.stat()) for path in sorted(files)]
    except OSError:  # a file was taken away while it was looked at, say
        return str(real), ()
    return str(real), tuple((name, f.st_ino, f.st_size, f.st_mtime_ns, f.st_ctime_ns) for name, f in found)


def version_of(scorer: Scorer) -> str:
    """The first 12 hex digits of what the bundle's manifest is sealed with; empty for one that was never saved."""
    return (scorer.bundle.sha256 or "")[:12]
