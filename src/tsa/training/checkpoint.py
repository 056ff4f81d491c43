"""Checkpoints: folders `last-EPOCH-STEP` that a killed run goes on from, and files `best-EPOCH.safetensors`.

Each folder is written aside and renamed: it is whole, or torn by the disk, which its hashes show. The newest two are kept,
and whatever weights they say are among the best. Knows trees of values; not what they mean to a run.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tsa.data.files import replaced_file, replaced_folder, sha256_of, write_json
from tsa.data.markers import is_marker
from tsa.errors import ConfigError
from tsa.training.packing import Tensors, pack, unpack

logger = logging.getLogger(__name__)

VERSION = 3
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
KEPT = 2
"""Checkpoints to go on from that are kept: one, and one before it should that be torn."""

Weights = dict[str, Tensor]
UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)


class TornError(Exception):
    """A checkpoint is not, to the byte, what was written."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, in `folder`; `identity` says which run: what it reads, and how it is set."""

    folder: Path
    identity: Mapping[str, Any]

    def save(self, epoch: int, step: int, state: Mapping[str, Any], best: Sequence[int] = ()) -> Path:
        """Write where the run stands. best: the epochs whose weights, if they were saved, are to be kept."""
        path = self.folder / f"last-{epoch:06}-{step:09}"
        with replaced_folder(path, MANIFEST, private=True) as aside:
            tensors: Tensors = {}
            packed = pack(dict(state), tensors)
            save_file(tensors, aside / TENSORS)
            (aside / STATE).write_text(json.dumps(packed), encoding="utf-8")
            write_json(aside / MANIFEST, self._manifest(aside, best))
        self.prune()
        return path

    def save_best(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of an epoch that is among the best."""
        with replaced_file(self._best(epoch), private=True) as aside:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, aside)

    def newest(self) -> dict[str, Any] | None:
        """The state to go on from: of the newest checkpoint that is whole; None where there is none.

        ConfigError where it is of another run: with what differs.
        """
        for path in self._lasts():
            try:
                self._check_whole(path)
            except TornError as torn:
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

    def there(self) -> bool:
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
        """Raise TornError unless all that belongs to the checkpoint is as it was written."""
        try:
            manifest = _manifest_of(path)
            files = {path / name: sha256 for name, sha256 in manifest["files"].items()}
            files |= {self.folder / name: sha256 for name, sha256 in manifest["best"].items()}
            for file, sha256 in files.items():
                if sha256_of(file) != sha256:
                    raise TornError(f"{file} is not what was written")
        except UNREADABLE as error:
            raise TornError(str(error)) from error

    def _check_own(self, path: Path) -> None:
        manifest = _manifest_of(path)
        if manifest["version"] != VERSION:
            found = f"version={manifest['version']!r}"
            raise ConfigError(f"{path}: this program reads checkpoints of version {VERSION}, however: {found}")
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


def differences(there: Any, here: Any, place: str = "") -> Iterator[str]:
    """Lines that tell where two trees of plain values differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            yield from differences(there.get(key), here.get(key), f"{place}.{key}" if place else key)
    elif there != here:
        yield f"{place}: {there!r}, {here!r}"


def _manifest_of(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _best_of(path: Path) -> list[str]:
    """The files of best weights that a checkpoint needs; none where it is torn."""
    try:
        return list(_manifest_of(path)["best"])
    except UNREADABLE:
        return []
