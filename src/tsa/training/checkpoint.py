"""Checkpoints of a run: folders `last-EPOCH-STEP` to resume from, and files `best-EPOCH.safetensors`.

Each folder is written under another name, then renamed; hashes detect damage. The newest two are stored, with the best
weights that they need.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tsa.errors import ConfigError
from tsa.files.platform_files import is_marker
from tsa.files.writing import atomic_file, atomic_folder, sha256_of, write_json
from tsa.value_differences import differences

logger = logging.getLogger(__name__)

VERSION = 4
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
MAX_CHECKPOINTS = 2
"""The number of checkpoints to store: the newest, and the one before it in case that is damaged."""

Weights = dict[str, Tensor]
UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)


class CorruptCheckpointError(Exception):
    """A checkpoint differs from what was written."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, in `folder`. `identity`: the store and settings that make it this run."""

    folder: Path
    identity: Mapping[str, Any]

    def save(self, epoch: int, step: int, state: Mapping[str, Any], best: Sequence[int] = ()) -> Path:
        """Write a checkpoint and remove old ones.

        Args:
            epoch: The current epoch.
            step: The steps done in it.
            state: The state to resume from.
            best: The epochs whose saved weights to retain.
        """
        path = self.folder / f"last-{epoch:06}-{step:09}"
        with atomic_folder(path, MANIFEST, private=True) as temporary:
            tensors: Tensors = {}
            packed = pack(dict(state), tensors)
            save_file(tensors, temporary / TENSORS)
            (temporary / STATE).write_text(json.dumps(packed), encoding="utf-8")
            write_json(temporary / MANIFEST, self._manifest(temporary, best))
        self.prune()
        return path

    def save_best(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of an epoch that is among the best."""
        with atomic_file(self._best(epoch), private=True) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)

    def load_latest(self) -> dict[str, Any] | None:
        """The state of the newest undamaged checkpoint; None if there is none.

        Raises:
            ConfigError: If it belongs to another run, with the differences.
        """
        for path in self._lasts():
            try:
                self._check_hashes(path)
            except CorruptCheckpointError as corrupt:
                renamed = path.with_name(f"torn-{path.name}")
                logger.warning("%s is damaged and was renamed to %s: %s", path, renamed.name, corrupt)
                shutil.rmtree(renamed, ignore_errors=True)
                path.rename(renamed)
                continue
            self._check_own(path)
            tensors = load_file(path / TENSORS)
            state: dict[str, Any] = unpack(json.loads((path / STATE).read_text(encoding="utf-8")), tensors)
            logger.info("resuming from %s", path)
            return state
        return None

    def best_weights(self, epoch: int) -> Weights:
        """The weights of one of the best epochs; empty for epoch 0."""
        if epoch == 0:
            return {}
        return {name: value.clone() for name, value in load_file(self._best(epoch)).items()}

    def exists(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return bool(self._lasts())

    def clear(self) -> None:
        """Remove the checkpoints of an earlier run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch:06}.safetensors"

    def _lasts(self) -> list[Path]:
        """The newest first."""
        return sorted((path for path in self.folder.glob("last-*") if not is_marker(path.name)), reverse=True)

    def _manifest(self, folder: Path, best: Sequence[int]) -> dict[str, Any]:
        files = {name: sha256_of(folder / name) for name in (STATE, TENSORS)}
        existing = [file for epoch in best if (file := self._best(epoch)).exists()]
        bests = {file.name: sha256_of(file) for file in existing}
        return {"version": VERSION, "identity": dict(self.identity), "files": files, "best": bests}

    def _check_hashes(self, path: Path) -> None:
        """Raise CorruptCheckpointError if a file of the checkpoint has changed."""
        try:
            manifest = _manifest_of(path)
            files = {path / name: sha256 for name, sha256 in manifest["files"].items()}
            files |= {self.folder / name: sha256 for name, sha256 in manifest["best"].items()}
            for file, sha256 in files.items():
                if sha256_of(file) != sha256:
                    raise CorruptCheckpointError(f"{file} has changed since it was written")
        except UNREADABLE as error:
            raise CorruptCheckpointError(str(error)) from error

    def _check_own(self, path: Path) -> None:
        manifest = _manifest_of(path)
        if manifest["version"] != VERSION:
            got = f"version={manifest['version']!r}"
            raise ConfigError(
                f"{path}: this program reads checkpoints of version {VERSION} (got {got}); "
                "train again in another folder"
            )
        if lines := list(differences(manifest["identity"], json.loads(json.dumps(dict(self.identity))))):
            raise ConfigError(f"{path} is of another run (checkpoint, then this run):\n  " + "\n  ".join(lines))

    def prune(self, max_checkpoints: int = MAX_CHECKPOINTS) -> None:
        """Remove all but the newest checkpoints, and best weights that the remaining ones do not need."""
        lasts = self._lasts()
        for path in lasts[max_checkpoints:]:
            shutil.rmtree(path, ignore_errors=True)
        needed = {name for path in lasts[:max_checkpoints] for name in _best_of(path)}
        for path in self.folder.glob("best-*"):
            if path.name not in needed:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".*.tmp"):  # unfinished files of a killed process
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _manifest_of(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _best_of(path: Path) -> list[str]:
    """The files of best weights that a checkpoint needs; none if it is damaged."""
    try:
        return list(_manifest_of(path)["best"])
    except UNREADABLE:
        return []


Tensors = dict[str, Tensor]
PLAIN = (str, bool, int, float, type(None))


def pack(value: Any, tensors: Tensors, path: str = "") -> Any:
    """`value` as JSON values. Its tensors and arrays are moved to `tensors`, named by their path."""
    name = f"{len(tensors)} {path}"  # the number makes the name unique for any keys
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        # not shared: an array may be a read-only map of a file
        tensors[name] = torch.from_numpy(np.array(value))
        return {"array": name}
    if isinstance(value, dict):
        return {
            "dict": [[pack(k, tensors), pack(v, tensors, f"{path}.{k}" if path else str(k))] for k, v in value.items()]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, tensors, f"{path}.{at}") for at, item in enumerate(value)]}
    if isinstance(value, PLAIN):
        return value
    raise TypeError(f"{path} must be plain, a tensor or an array (got {type(value).__name__})")


def unpack(value: Any, tensors: Tensors) -> Any:
    """The inverse of `pack`. Tensors are copies, in aligned memory."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner].clone()
    if kind == "array":
        return tensors[inner].clone().numpy()
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in inner}
    items = [unpack(item, tensors) for item in inner]
    return items if kind == "list" else tuple(items)


State = dict[str, Any]


def random_state(device: torch.device) -> State:
    """The states of the generators of Python, numpy, torch and, on a GPU, the device."""
    state: State = {"python": random.getstate(), "torch": torch.get_rng_state()}
    state["numpy"] = np.random.get_state()  # noqa: NPY002 the global one, which libraries may draw from
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: State, device: torch.device) -> None:
    """Restore the generators from a `random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
