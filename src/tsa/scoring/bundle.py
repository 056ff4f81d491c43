"""The bundle: a folder with everything that scoring needs, each file hashed in its manifest.

    weights.safetensors   the network's weights
    model.json            ModelConfig
    market.json           the market, resolved
    encoder.json          the fitted encoder
    training.json         how it was trained: settings, sampling rate, rows, versions
    calibration.json      from raw scores to percentiles and probabilities; absent where there is none
    model.onnx, model.int8.onnx   the network as graphs for ONNX Runtime, where it was exported
    manifest.json         format version, market fingerprint, size and sha256 of each file, and its own sha256

Nothing in it can execute. A missing, changed or extra file is refused by name. It knows neither training nor serving.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tsa.data.encoder import Encoder
from tsa.data.files import file_entry, replaced_folder, sha256_of
from tsa.errors import BundleError, TSAError
from tsa.model import ModelConfig, TSANetwork
from tsa.schema import Market
from tsa.scoring.calibration import Calibration

VERSION = 1
MANIFEST = "manifest.json"
FILES = ("weights.safetensors", "model.json", "market.json", "encoder.json", "training.json")
CALIBRATION = "calibration.json"
GRAPHS = {"float32": "model.onnx", "int8": "model.int8.onnx"}
"""Files of exported graphs, by the precision of their products."""
OPTIONAL = (CALIBRATION, *GRAPHS.values())
"""What a bundle may lack; whether it does is sealed in the manifest."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A network in evaluation mode, with the market and encoder that make its input."""

    market: Market
    encoder: Encoder
    config: ModelConfig
    network: TSANetwork
    training: Mapping[str, Any]
    calibration: Calibration | None = None
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    """The network as ONNX graphs, by precision, where it was exported (`tsa.scoring.export`)."""

    @property
    def lengths(self) -> dict[str, int]:
        """Events of each history, the current one included, by the names that the network knows them by."""
        return dict(zip(self.config.histories, (history.length for history in self.market.history), strict=True))

    def save(self, path: Path) -> None:
        """Write the bundle as the folder `path`, whole or not at all; a bundle that stands there is replaced."""
        with replaced_folder(path, MANIFEST) as folder:
            weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
            save_file(weights, folder / "weights.safetensors")
            _write_json(folder / "model.json", self.config.to_dict())
            _write_json(folder / "market.json", self.market.to_dict())
            _write_json(folder / "encoder.json", self.encoder.to_dict())
            _write_json(folder / "training.json", dict(self.training))
            if self.calibration is not None:
                _write_json(folder / CALIBRATION, self.calibration.to_dict())
            for precision, graph in self.graphs.items():
                (folder / GRAPHS[precision]).write_bytes(graph)
            (folder / MANIFEST).write_text(_sealed(_manifest(folder, self.market.fingerprint)), encoding="utf-8")

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read and check a bundle. BundleError names the file that is missing, extra, changed or cannot be read."""
        folder = Path(path)
        listed = _check(folder)
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
                calibration=Calibration.from_dict(_read_json(folder / CALIBRATION)) if CALIBRATION in listed else None,
                graphs={key: (folder / name).read_bytes() for key, name in GRAPHS.items() if name in listed},
            )


def _manifest(folder: Path, fingerprint: str) -> dict[str, Any]:
    written = [name for name in (*FILES, *OPTIONAL) if (folder / name).is_file()]
    files = {name: file_entry(folder / name) for name in written}
    return {"version": VERSION, "market_fingerprint": fingerprint, "torch": str(torch.__version__), "files": files}


def _check(folder: Path) -> Mapping[str, Any]:
    """Refuse a bundle that is not, to the byte, what was written; what the manifest says of each file."""
    listed = _read_manifest(folder)
    present = {file.name for file in folder.iterdir()} - {MANIFEST}
    wanted = [*FILES, *(name for name in OPTIONAL if name in listed)]
    for name in sorted(present - set(wanted)):
        raise BundleError(f"{folder / name} does not belong to the bundle")
    for name in wanted:
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing")
        if name not in listed or sha256_of(folder / name) != listed[name]["sha256"]:
            raise BundleError(f"{folder / name} was changed: its sha256 is not the one in the manifest")
    return listed


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    """What the manifest says of each file, once it is sure to be what was written."""
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        version, listed = manifest["version"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = f"; did you mean {folder / 'bundle'}?" if (folder / "bundle" / MANIFEST).is_file() else ""
        raise BundleError(f"{path} cannot be read ({error}): {folder} is not a bundle{hint}") from None
    if version != VERSION:
        raise BundleError(f"{path}: this program reads bundles of version {VERSION}, however: version={version!r}")
    if text != _sealed({key: value for key, value in manifest.items() if key != "sha256"}):
        raise BundleError(f"{path} was changed: its sha256 is not the one it holds")
    return listed


def _sealed(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest, with the sha256 of all else in it: no byte of it can change unseen."""
    return _to_json({**manifest, "sha256": hashlib.sha256(_to_json(manifest).encode()).hexdigest()})


@contextmanager
def _unreadable_is_refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError, TSAError) as error:
        raise BundleError(f"{folder} cannot be read: {error}") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(_to_json(value), encoding="utf-8")


def _to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
