"""Checkpoints: folders `last-EPOCH-STEP` that a killed run goes on from, and files `best-EPOCH.safetensors`.

Each folder is written aside and renamed: it is whole, or torn by the disk, which its hashes show. The newest two are kept,
and whatever weights they say are among the best. Knows trees of values; not what they mean to a run.
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
from tsa.trees import differences

logger = logging.getLogger(__name__)

VERSION = 4
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
KEPT = 2
"""Checkpoints to go on from that are kept: one, and one before it should that be torn."""

Weights = dict[str, Tensor]
UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)


class CorruptCheckpointError(Exception):
    """A checkpoint is not, to the byte, what was written."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, in `folder`; `identity` says which run: what it reads, and how it is set."""

    folder: Path
    identity: Mapping[str, Any]

    def save(self, epoch: int, step: int, state: Mapping[str, Any], best: Sequence[int] = ()) -> Path:
        """Write where the run stands. best: the epochs whose weights, if they were saved, are to be kept."""
        path = self.folder / f"last-{epoch:06}-{step:09}"
        with atomic_folder(path, MANIFEST, private=True) as aside:
            tensors: Tensors = {}
            packed = pack(dict(state), tensors)
            save_file(tensors, aside / TENSORS)
            (aside / STATE).write_text(json.dumps(packed), encoding="utf-8")
            write_json(aside / MANIFEST, self._manifest(aside, best))
        self.prune()
        return path

    def save_best(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of an epoch that is among the best."""
        with atomic_file(self._best(epoch), private=True) as aside:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, aside)

    def load_latest(self) -> dict[str, Any] | None:
        """The state to go on from: of the newest checkpoint that is whole; None where there is none.

        ConfigError where it is of another run: with what differs.
        """
        for path in self._lasts():
            try:
                self._check_whole(path)
            except CorruptCheckpointError as torn:
                aside = path.with_name(f"torn-{path.name}")
                logger.warning("%s is skipped, it is %s now: %s", path, aside.name, torn)
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                continue
            self._check_own(path)
            tensors = load_file(path / TENSORS)
            state: dict[str, Any] = unpack(json.loads((path / STATE).read_text(encoding="utf-8")), tensors)
            logger.info("going on from %s", path)
            return state
        return None

    def best_weights(self, epoch: int) -> Weights:
        """The weights of an epoch that is among the best; nothing for 0, when none has ended."""
        if epoch == 0:
            return {}
        return {name: value.clone() for name, value in load_file(self._best(epoch)).items()}

    def exists(self) -> bool:
        """Whether there is anything to go on from."""
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
        there = [file for epoch in best if (file := self._best(epoch)).exists()]
        bests = {file.name: sha256_of(file) for file in there}
        return {"version": VERSION, "identity": dict(self.identity), "files": files, "best": bests}

    def _check_whole(self, path: Path) -> None:
        """Raise CorruptCheckpointError unless all that belongs to the checkpoint is as it was written."""
        try:
            manifest = _manifest_of(path)
            files = {path / name: sha256 for name, sha256 in manifest["files"].items()}
            files |= {self.folder / name: sha256 for name, sha256 in manifest["best"].items()}
            for file, sha256 in files.items():
                if sha256_of(file) != sha256:
                    raise CorruptCheckpointError(f"{file} is not what was written")
        except UNREADABLE as error:
            raise CorruptCheckpointError(str(error)) from error

    def _check_own(self, path: Path) -> None:
        manifest = _manifest_of(path)
        if manifest["version"] != VERSION:
            found = f"version={manifest['version']!r}"
            raise ConfigError(
                f"{path}: this program reads checkpoints of version {VERSION} (got {found}); "
                "train again in another folder"
            )
        if lines := list(differences(manifest["identity"], json.loads(json.dumps(dict(self.identity))))):
            raise ConfigError(f"{path} is of another run (checkpoint, then this run):\n  " + "\n  ".join(lines))

    def prune(self, kept: int = KEPT) -> None:
        """Remove all but the newest checkpoints, and best weights that none of those left needs."""
        lasts = self._lasts()
        for path in lasts[kept:]:
            shutil.rmtree(path, ignore_errors=True)
        needed = {name for path in lasts[:kept] for name in _best_of(path)}
        for path in self.folder.glob("best-*"):
            if path.name not in needed:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".*.tmp"):  # what a killed process was writing
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _manifest_of(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _best_of(path: Path) -> list[str]:
    """The files of best weights that a checkpoint needs; none where it is torn."""
    try:
        return list(_manifest_of(path)["best"])
    except UNREADABLE:
        return []


Tensors = dict[str, Tensor]
PLAIN = (str, bool, int, float, type(None))


def pack(value: Any, tensors: Tensors, place: str = "") -> Any:
    """`value` as JSON can hold it; its tensors and arrays go into `tensors`, named by where they stand."""
    name = f"{len(tensors)} {place}"  # the number makes it one of its own, whatever keys hold
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        # not shared: an array may be a read-only map of a file
        tensors[name] = torch.from_numpy(np.array(value))
        return {"array": name}
    if isinstance(value, dict):
        return {
            "dict": [
                [pack(k, tensors), pack(v, tensors, f"{place}.{k}" if place else str(k))] for k, v in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, tensors, f"{place}.{at}") for at, item in enumerate(value)]}
    if isinstance(value, PLAIN):
        return value
    raise TypeError(f"{place} must be plain, a tensor or an array (got {type(value).__name__})")


def unpack(value: Any, tensors: Tensors) -> Any:
    """What `pack` packed. Tensors are copies: in aligned memory of their own."""
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
    """Where the generators of Python, numpy, torch and, on a GPU, of its device stand."""
    state: State = {"python": random.getstate(), "torch": torch.get_rng_state()}
    state["numpy"] = np.random.get_state()  # noqa: NPY002 the global one, which libraries may draw from
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: State, device: torch.device) -> None:
    """Go on drawing where `random_state` was taken."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
