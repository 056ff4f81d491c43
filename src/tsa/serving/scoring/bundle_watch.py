"""Detect a new bundle at a path: a link that was changed, or a folder whose files were changed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from tsa.bundle.bundle import MANIFEST
from tsa.files.platform_files import is_marker
from tsa.inference.scorer import Scorer

logger = logging.getLogger(__name__)

BundleFileId = tuple[str, tuple[tuple[str, int, int, int, int], ...]]
"""The resolved path and its files: name, inode, size, mtime and ctime. No files if there is no manifest."""


def bundle_file_id(bundle: Path) -> BundleFileId:
    """Identify the bundle at a path, for comparison. Also works for a path that does not exist."""
    real = Path(os.path.realpath(bundle))
    try:
        files = [path for path in real.iterdir() if not is_marker(path.name)] if real.is_dir() else [real]
        if real.is_dir() and not (real / MANIFEST).is_file():
            return str(real), ()
        files_found = [(path.name, path.stat()) for path in sorted(files)]
    except OSError:  # for example, a file was removed in between
        return str(real), ()
    return str(real), tuple((name, f.st_ino, f.st_size, f.st_mtime_ns, f.st_ctime_ns) for name, f in files_found)


def version_of(scorer: Scorer) -> str:
    """The first 12 hex digits of the sha256 of the bundle's manifest; empty for a bundle that was never saved."""
    return (scorer.bundle.sha256 or "")[:12]
