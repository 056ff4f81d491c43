"""The manifest of a bundle: it lists size and sha256 of each file, and is used to check that nothing was changed.

Files are given by name, whether they come from a folder or an archive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tsa.errors import BundleError
from tsa.text import brief, truncate_repr

VERSION = 4
MANIFEST, SIGNATURE, CARD = "manifest.json", "signature.json", "model_card.md"
HEAD = (MANIFEST, SIGNATURE)
"""The files that are read first: the list of all other files, and its signature."""
WEIGHTS = "weights.safetensors"
FILES = (WEIGHTS, "model.json", "market.json", "encoder.json", "training.json", CARD)
CALIBRATION, THRESHOLDS, METRICS, DATA = "calibration.json", "thresholds.json", "metrics.json", "data.json"
GRAPHS = {"float32": "model.onnx", "int8": "model.int8.onnx", "trees": "trees.onnx"}
"""Files of exported graphs: the network, by the precision of its matrix products, and the trees."""
TREES, PARTS = "trees.txt", "parts.json"
OPTIONAL = (CALIBRATION, THRESHOLDS, METRICS, DATA, TREES, PARTS, *GRAPHS.values())
"""Optional files; the manifest lists those that the bundle has."""

Contents = Mapping[str, bytes]
"""Files by name."""


def build_manifest(contents: Contents, facts: Mapping[str, Any]) -> bytes:
    """The manifest of files: `facts`, size and sha256 of each file, and a sha256 of the manifest's content."""
    files = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in sorted(contents.items())}
    manifest = {"version": VERSION, **facts, "files": files}
    return to_json({**manifest, "sha256": sha256(to_json(manifest))})


def sizes_of(manifest: Mapping[str, Any], where: str) -> dict[str, int]:
    """The size of each file that a manifest lists.

    Raises:
        BundleError: If it does not list the required files.
    """
    listed = manifest["files"]
    for name in FILES:
        if name not in listed:
            raise BundleError(f"{where}/{MANIFEST} must list {name} (got {sorted(listed)})")
    if unknown := sorted(set(listed) - {*FILES, *OPTIONAL}):
        raise BundleError(f"{where}/{MANIFEST} must list files of a bundle only (got {unknown[0]!a})")
    return {name: entry["bytes"] for name, entry in listed.items()}


def check_hashes(contents: Contents, manifest: Mapping[str, Any], where: str) -> None:
    """Raise BundleError for the first file that differs from the manifest."""
    for name, entry in manifest["files"].items():
        if sha256(contents[name]) != entry["sha256"]:
            raise BundleError(f"{where}/{name} was changed: its sha256 is not the one in the manifest")


def read_manifest(contents: Contents, where: str) -> dict[str, Any]:
    """The manifest among `contents`, after checking its hash. Raises BundleError."""
    try:
        text = contents[MANIFEST]
        manifest: dict[str, Any] = json.loads(text)
        version = manifest["version"]
        for entry in manifest["files"].values():
            if type(entry["bytes"]) is not int or type(entry["sha256"]) is not str:
                raise TypeError(f"a size or a hash is {truncate_repr(entry, 60)}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{MANIFEST} is damaged, {brief(error)}" if MANIFEST in contents else f"it has no {MANIFEST}"
        raise BundleError(f"{where} is not a bundle ({what})") from None
    if version != VERSION:
        actual = f"version={version!r}"
        raise BundleError(
            f"{where}/{MANIFEST}: this program reads bundles of version {VERSION} (got {actual}); "
            "train or import it again"
        )
    own = {key: value for key, value in manifest.items() if key != "sha256"}
    if text != to_json({**own, "sha256": sha256(to_json(own))}):
        raise BundleError(f"{where}/{MANIFEST} was changed: its sha256 is not the one it holds")
    return manifest


def sha256(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def to_json(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys: the same value gives the same bytes. Raises ValueError for NaN and infinity."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
