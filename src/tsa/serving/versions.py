"""The version of a bundle, as answers name it."""

from __future__ import annotations

from pathlib import Path

import orjson

from tsa.errors import BundleError
from tsa.scoring.bundle import MANIFEST


def version_of(bundle: Path) -> str:
    """The first 12 hex digits of the sha256 that a bundle's manifest is sealed with. BundleError where there is none."""
    path = bundle / MANIFEST
    try:
        return str(orjson.loads(path.read_bytes())["sha256"])[:12]
    except (OSError, ValueError, KeyError, TypeError):
        inner = bundle / "bundle"
        hint = f"; did you mean {inner}?" if (inner / MANIFEST).is_file() else ""
        raise BundleError(f"{path} cannot be read: {bundle} is not a bundle{hint}") from None
