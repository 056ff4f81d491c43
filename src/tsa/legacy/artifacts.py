"""Read the legacy system's files of a trained model into plain values and maps, and write its calibration files.

Weights, JSON tables, `percentile_score.pkl` and `bspline_parameters.json`. How they fit together is checked in
`tsa.legacy.importer`.
"""

from __future__ import annotations

import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tsa.calibration.calibration import Calibration
from tsa.calibration.percentile import PercentileMap
from tsa.calibration.probability_maps import BSplineMap
from tsa.errors import ArtefactError, CalibrationError
from tsa.files.writing import read_json, write_json
from tsa.legacy.safe_pickle import read_pickle, write_pickle

PERCENTILES, BSPLINE = "percentile_score.pkl", "bspline_parameters.json"
CHECKPOINT = ("model", "model_state_dict", "state_dict")
"""Keys of the state dict in a training checkpoint."""
MAX_TIMES, FREE_BYTES, MAX_PICKLE = 4, 64 * 2**20, 2**20
"""Most memory of weights, as a multiple of the file size or in bytes; and most bytes of their description: enough for
5,000 tensors. A byte of it can cost some 200 bytes of memory.
"""
OLD_PICKLES = 5
"""A file that is not a zip archive begins with so many pickles; then follow the numbers."""
BY_NUMBER = b"\nbytearray\n"
"""The name in a pickle of the one type that torch allocates in any size, given a number."""


def read_table(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ArtefactError."""
    return read_json(path, ArtefactError)


def read_percentiles(path: Path, notes: list[str] | None = None) -> PercentileMap:
    """The percentile map in a `percentile_score.pkl`: a list of pairs [score quantile at p, p].

    Scores that decrease because of rounding are raised to the one before; `notes` then gets a sentence on it.

    Raises:
        ArtefactError: If the file holds anything else.
    """
    pairs = read_pickle(path)
    try:
        percentiles = PercentileMap.from_legacy(pairs)
        _note_lifted(notes, path, "scores", [pair[0] for pair in pairs], percentiles.scores)
        return percentiles
    except (CalibrationError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path.name} must hold ascending pairs [score, percentile] (got {error})") from None


def read_bspline(path: Path, notes: list[str] | None = None) -> BSplineMap:
    """The probability map in a `bspline_parameters.json`.

    Knots and coefficients that decrease because of rounding are raised to the one before; `notes` then gets a
    sentence on it.

    Raises:
        ArtefactError: If the file holds anything else.
    """
    table = {name: _unboxed(value) for name, value in read_table(path).items()}
    try:
        spline = BSplineMap.from_legacy(table)
        for name in ("knots", "coefficients"):
            _note_lifted(notes, path, name, table[name], getattr(spline, name))
        return spline
    except (CalibrationError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path.name} must hold knots, coefficients and degree (got {error})") from None


def _unboxed(value: Any) -> Any:
    """R writes a single value as a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _note_lifted(
    notes: list[str] | None, path: Path, name: str, given: Sequence[float], lifted: Sequence[float]
) -> None:
    falls = [after - float(before) for before, after in zip(given, lifted, strict=True) if after != float(before)]
    if falls and notes is not None:
        what = f"{len(falls)} of {len(lifted)} {name} decrease because of rounding, by {max(falls):.1g} at most"
        notes.append(f"{path.name}: {what}; each is raised to the one before it, so that the map does not decrease")


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pt with torch's weights-only loader.

    In a training checkpoint, the state dict is taken from a key in `CHECKPOINT`. Memory is limited in proportion to
    the file size: no compressed zeros, no tensor that repeats a number, no thousand names for one tensor.

    Raises:
        ArtefactError: If it cannot be read or breaks these limits.
    """
    safe = path.suffix.lower() == ".safetensors"
    try:
        if not safe:
            _refuse_decompression_bomb(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about some pickles; they load, or are refused below
            state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except ArtefactError:
        raise
    except Exception as error:  # truncated and malicious files fail in many ways
        raise ArtefactError(f"{path.name} cannot be read as weights: {_reason(error)}") from None
    if isinstance(state, Mapping):
        state = next((state[name] for name in CHECKPOINT if isinstance(state.get(name), Mapping)), state)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ArtefactError(f"{path.name} must contain only names and tensors (got something else)")
    weights = {str(name): value for name, value in state.items()}
    _refuse_repeated(path, weights)
    return weights


def _refuse_decompression_bomb(path: Path) -> None:
    """Raise ArtefactError for a .pt that unpacks to much more than its size, or that allocates memory by a number."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        asks = content.find(BY_NUMBER) >= 0
    if zipfile.is_zipfile(path):  # as torch writes them; older files are not compressed
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            for part in parts:
                if part.filename.endswith(".pkl"):
                    if part.file_size > MAX_PICKLE:
                        raise _long_description(path, f"{part.file_size:,}")
                    asks |= BY_NUMBER in archive.read(part)
        unpacked, limit = sum(part.file_size for part in parts), max(FREE_BYTES, MAX_TIMES * path.stat().st_size)
        if unpacked > limit:
            rule = f"must unpack to at most {limit:,} bytes (got {unpacked:,})"
            raise ArtefactError(f"{path.name} {rule}: save it again with torch.save")
    elif not _has_short_pickles(path):
        raise _long_description(path, "more")
    if asks:
        raise ArtefactError(f"{path.name} must contain only tensors (it asks for a bytearray)")


def _has_short_pickles(path: Path) -> bool:
    """Whether the pickles of an older file take at most `MAX_PICKLE` bytes. They are not executed."""
    with path.open("rb") as file:
        for _ in range(OLD_PICKLES):
            for _, _, position in pickletools.genops(file):
                if (position or 0) > MAX_PICKLE:
                    return False
    return True


def _long_description(path: Path, got: str) -> ArtefactError:
    return ArtefactError(f"{path.name} must describe its tensors in at most {MAX_PICKLE:,} bytes (got {got})")


def _refuse_repeated(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise ArtefactError for tensors that need much more memory than the file size, once every number is stored
    separately.
    """
    total = 0
    for name, value in state.items():
        if value.layout != torch.strided or value.device.type != "cpu":
            continue  # other kinds of tensors are refused when they are loaded into the network
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():
            raise ArtefactError(
                f"{path.name}: {name} must store each of its numbers (its shape is {tuple(value.shape)})"
            )
        total += size
    if total > (limit := max(FREE_BYTES, MAX_TIMES * path.stat().st_size)):
        raise ArtefactError(f"{path.name} must hold tensors of at most {limit:,} bytes in all (got {total:,})")


def _reason(error: Exception) -> str:
    """Why weights cannot be read. Torch's text also says how to load them unsafely, so that part is dropped."""
    text = str(error).strip()
    asked = re.search(r"GLOBAL ([\w.]+)", text)
    return f"it asks for {asked[1]}, but must contain only tensors" if asked else repr(text.split(". ")[0][:200])


def write_legacy(calibration: Calibration, folder: Path) -> list[Path]:
    """Write the maps of a calibration as the legacy system's two files. Returns the paths written.

    Raises:
        CalibrationError: If it has neither map, or a probability map that is not a B-spline.
    """
    percentile, probability = calibration.percentile, calibration.probability
    if percentile is None and probability is None:
        raise CalibrationError("the legacy system's files need a percentile or a probability map (got neither)")
    if probability is not None and not isinstance(probability, BSplineMap):
        raise CalibrationError(f"{BSPLINE} holds a B-spline, but the probability is {probability.method}")
    written = []
    if percentile is not None:
        write_pickle(folder / PERCENTILES, percentile.pairs())
        written.append(folder / PERCENTILES)
    if probability is not None:
        write_json(folder / BSPLINE, probability.to_legacy())
        written.append(folder / BSPLINE)
    return written
