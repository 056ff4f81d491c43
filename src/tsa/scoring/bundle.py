"""The bundle: a folder with everything that scoring needs, each file hashed in its manifest.

    weights.safetensors   the network's weights
    model.json            ModelConfig
    market.json           the market, resolved
    encoder.json          the fitted encoder
    training.json         how it was trained: settings, sampling rate, rows, versions
    manifest.json         format version, market fingerprint, size and sha256 of each file

Nothing in it can execute. A missing, changed or extra file is refused by name. It knows neither training nor serving.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tsa.data.encoder import Encoder
from tsa.data.files import replaced_folder
from tsa.errors import BundleError
from tsa.model import ModelConfig, TSANetwork
from tsa.schema import Market

VERSION = 1
MANIFEST = "manifest.json"
FILES = ("weights.safetensors", "model.json", "market.json", "encoder.json", "training.json")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A network in evaluation mode, with the market and encoder that make its input."""

    market: Market
    encoder: Encoder
    config: ModelConfig
    network: TSANetwork
    training: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the bundle as the folder `path`, whole or not at all; a bundle that stands there is replaced."""
        with replaced_folder(path, MANIFEST) as folder:
            weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
            save_file(weights, folder / "weights.safetensors")
            _write_json(folder / "model.json", self.config.to_dict())
            _write_json(folder / "market.json", self.market.to_dict())
            _write_json(folder / "encoder.json", self.encoder.to_dict())
            _write_json(folder / "training.json", dict(self.training))
            _write_json(folder / MANIFEST, _manifest(folder, self.market.fingerprint))

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read and check a bundle. BundleError names the file that is missing, extra, changed or cannot be read."""
        folder = Path(path)
        _check(folder)
        with _unreadable_is_refused(folder):
            config = ModelConfig.from_dict(_read_json(folder / "model.json"))
            network = TSANetwork(config)
            network.load_state_dict(load_file(folder / "weights.safetensors"))
            return cls(
                market=Market.from_dict(_read_json(folder / "market.json")),
                encoder=Encoder.from_dict(_read_json(folder / "encoder.json")),
                config=config,
                network=network.eval(),
                training=_read_json(folder / "training.json"),
            )


def _manifest(folder: Path, fingerprint: str) -> dict[str, Any]:
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in FILES}
    return {"version": VERSION, "market_fingerprint": fingerprint, "torch": str(torch.__version__), "files": files}


def _check(folder: Path) -> None:
    """Refuse a bundle that is not, to the byte, what was written."""
    try:
        manifest = _read_json(folder / MANIFEST)
        version, listed = manifest["version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read ({error}): {folder} is not a bundle") from None
    if version != VERSION:
        raise BundleError(f"{folder}: this program reads bundles of version {VERSION}, however: version={version!r}")
    if set(listed) != set(FILES):
        raise BundleError(f"{folder / MANIFEST} must list {sorted(FILES)}, however: {sorted(listed)}")
    present = {file.name for file in folder.iterdir()} - {MANIFEST}
    for name in sorted(present - set(FILES)):
        raise BundleError(f"{folder / name} does not belong to the bundle")
    for name in sorted(set(FILES) - present):
        raise BundleError(f"{folder / name} is missing")
    for name, entry in listed.items():
        if _sha256(folder / name) != entry["sha256"]:
            raise BundleError(f"{folder / name} was changed: its sha256 is not the one in the manifest")


@contextmanager
def _unreadable_is_refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"{folder} cannot be read: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())
