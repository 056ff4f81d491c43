"""What a bundle holds, to the byte: the manifest that seals it, and the check that nothing was changed since.

A bundle is looked at as files by name, whether they come from a folder or an archive. This file does not know what is in
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tsa.errors import BundleError

VERSION = 2
MANIFEST, SIGNATURE, CARD = "manifest.json", "signature.json", "model_card.md"
WEIGHTS = "weights.safetensors"
FILES = (WEIGHTS, "model.json", "market.json", "encoder.json", "training.json", CARD)
CALIBRATION, THRESHOLDS, METRICS, DATA = "calibration.json", "thresholds.json", "metrics.json", "data.json"
GRAPHS = {"float32": "model.onnx", "int8": "model.int8.onnx"}
"""Files of exported graphs, by the precision of their products."""
OPTIONAL = (CALIBRATION, THRESHOLDS, METRICS, DATA, *GRAPHS.values())
"""What a bundle may lack; whether it does is sealed in the manifest."""

Contents = Mapping[str, bytes]
"""Files by name."""


def sealed(contents: Contents, facts: Mapping[str, Any]) -> bytes:
    """The manifest of files: `facts`, size and sha256 of each file, and a sha256 of all that, so no byte changes unseen."""
    files = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in sorted(contents.items())}
    manifest = {"version": VERSION, **facts, "files": files}
    return to_json({**manifest, "sha256": sha256(to_json(manifest))})


def check(contents: Contents, where: str) -> dict[str, Any]:
    """The manifest among `contents`. BundleError names the file of `where` that is missing, extra or changed."""
    manifest = _manifest(contents, where)
    listed = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    wanted = [*FILES, *(name for name in OPTIONAL if name in listed)]
    for name in sorted(set(contents) - {*wanted, MANIFEST, SIGNATURE}):
        raise BundleError(f"{where}/{name} does not belong to the bundle")
    for name in wanted:
        if name not in contents:
            raise BundleError(f"{where}/{name} is missing")
        if name not in listed or sha256(contents[name]) != listed[name]:
            raise BundleError(f"{where}/{name} was changed: its sha256 is not the one in the manifest")
    return manifest


def _manifest(contents: Contents, where: str) -> dict[str, Any]:
    """The manifest, once it is sure to be what was written."""
    try:
        text = contents[MANIFEST]
        manifest: dict[str, Any] = json.loads(text)
        version, _ = manifest["version"], {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{where}/{MANIFEST} cannot be read ({error!r}): {where} is not a bundle") from None
    if version != VERSION:
        found = f"version={version!r}"
        raise BundleError(f"{where}/{MANIFEST}: this program reads bundles of version {VERSION}, however: {found}")
    own = {key: value for key, value in manifest.items() if key != "sha256"}
    if text != to_json({**own, "sha256": sha256(to_json(own))}):
        raise BundleError(f"{where}/{MANIFEST} was changed: its sha256 is not the one it holds")
    return manifest


def sha256(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def to_json(value: Mapping[str, Any]) -> bytes:
    """JSON with keys in order: the same value gives the same bytes. NaN and infinity are refused with ValueError."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
