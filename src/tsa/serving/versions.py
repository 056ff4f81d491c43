"""The version of a bundle, as answers name it."""

from __future__ import annotations

from pathlib import Path

import orjson

from tsa.errors import BundleError
from tsa.scoring.archive import read_contents
from tsa.scoring.manifest import MANIFEST


def version_of(bundle: Path) -> str:
    """The first 12 hex digits of the sha256 that a bundle's manifest is sealed with. BundleError where there is none."""
    try:
        return str(orjson.loads(read_contents(bundle)[MANIFEST])["sha256"])[:12]
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{bundle}/{MANIFEST} cannot be read: {bundle} is not a bundle") from None
