"""The legacy system's two files of scores: written, and read back to the same maps."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsa.calibration.calibration import Calibration
from tsa.calibration.percentile import PercentileMap
from tsa.calibration.probability_maps import BSplineMap, LogitMap
from tsa.errors import ArtefactError, CalibrationError
from tsa.legacy.artifacts import BSPLINE, PERCENTILES, read_bspline, read_percentiles, read_weights, write_legacy

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.beta(1, 8, 6000)
LABELS = (GENERATOR.random(6000) < SCORES / 4).astype(np.int8)


def test_an_imported_calibration_is_written_as_it_came(golden_scores: dict[str, Any], tmp_path: Path) -> None:
    percentile = PercentileMap.from_legacy(golden_scores["percentile_score"])
    spline = BSplineMap.from_legacy(golden_scores["bspline_parameters"])
    written = write_legacy(Calibration(percentile=percentile, probability=spline), tmp_path)
    assert [path.name for path in written] == [PERCENTILES, BSPLINE]
    assert pickle.loads((tmp_path / PERCENTILES).read_bytes()) == golden_scores["percentile_score"]
    assert json.loads((tmp_path / BSPLINE).read_text()) == golden_scores["bspline_parameters"]
    assert read_percentiles(tmp_path / PERCENTILES) == percentile
    assert read_bspline(tmp_path / BSPLINE) == spline


def test_a_calibration_of_our_own_in_their_form(tmp_path: Path) -> None:
    fitted = Calibration.fit(scores=SCORES, labels=LABELS)
    write_legacy(fitted, tmp_path)
    pairs = pickle.loads((tmp_path / PERCENTILES).read_bytes())
    assert len(pairs) == 1000
    assert [p for _, p in pairs] == pytest.approx(np.arange(1000) / 1000)
    below = np.searchsorted(np.sort(SCORES), [s for s, _ in pairs]) / len(SCORES)
    np.testing.assert_allclose(below, [p for _, p in pairs], rtol=0, atol=1e-3)
    assert {type(value) for pair in pairs for value in pair} == {float}
    assert fitted.percentile is not None
    difference = read_percentiles(tmp_path / PERCENTILES)(SCORES) - fitted.percentile(SCORES)
    assert np.abs(difference).max() <= 0.002
    assert read_bspline(tmp_path / BSPLINE) == fitted.probability


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="got neither"):
        write_legacy(Calibration(), tmp_path)
    platt = Calibration(percentile=PercentileMap.fit(SCORES), probability=LogitMap("platt", 1, 1, 0))
    with pytest.raises(CalibrationError, match="holds a B-spline, but the probability is platt"):
        write_legacy(platt, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [{"a": 1}, 3, "text", [1, 2], [[0.1, "x"], [0.2, "y"]], [[0.1, 0.2], [0.2]]])
def test_percentiles_that_are_none(content: Any, tmp_path: Path) -> None:
    (tmp_path / PERCENTILES).write_bytes(pickle.dumps(content))
    with pytest.raises(ArtefactError, match=r"percentile_score\.pkl must hold ascending pairs"):
        read_percentiles(tmp_path / PERCENTILES)


def test_percentiles_as_an_array(tmp_path: Path) -> None:
    (tmp_path / PERCENTILES).write_bytes(pickle.dumps(np.array([[0.1, 0.0], [0.2, 0.5]])))
    assert read_percentiles(tmp_path / PERCENTILES).scores == (0.1, 0.2)


class _ByNumber:
    """A pickle of a few bytes that asks for as many as it likes."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return bytearray, (200_000_000,)


def _deflated(path: Path) -> None:
    torch.save({"a": torch.zeros(50_000_000)}, path)
    parts = dict(_parts(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def _parts(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


LISTS = b"\x80\x02" + b"]" * 1_100_000 + b"."


def _pickled_lists(path: Path) -> None:
    """Of nothing but lists in lists, which take much more room than their byte."""
    torch.save({"a": torch.zeros(1)}, path)
    parts = _parts(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts:
            archive.writestr(name, LISTS if name.endswith(".pkl") else data)


def _lists_as_of_old(path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    with path.open("rb") as file:
        for _ in range(3):  # magic number, version, sizes of types
            pickle.load(file)
        head = path.read_bytes()[: file.tell()]
    path.write_bytes(head + LISTS)


SWELLING = {
    "zeros that were compressed": _deflated,
    "one number for all": lambda path: torch.save({"a": torch.zeros(1).expand(50_000_000)}, path),
    "many names for one": lambda path: torch.save(dict.fromkeys(map(str, range(100)), torch.zeros(500_000)), path),
    "so many bytes": lambda path: torch.save({"a": _ByNumber()}, path),
    "so many bytes, as of old": lambda path: torch.save({"a": _ByNumber()}, path, _use_new_zipfile_serialization=False),
    "lists": _pickled_lists,
    "lists, as of old": _lists_as_of_old,
}


UNSPREAD = ("one number for all", "many names for one")
"""These take no room while they are loaded; the others must not be loaded at all."""


@pytest.mark.parametrize("kind", SWELLING)
def test_weights_take_no_more_memory_than_their_file_tells(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SWELLING[kind](tmp_path / "w.pt")
    loaded: list[bool] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: loaded.append(True) or load(*args, **options))  # type: ignore[func-returns-value]
    with pytest.raises(ArtefactError, match=r"^w\.pt"):
        read_weights(tmp_path / "w.pt")
    assert bool(loaded) == (kind in UNSPREAD)


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_of_either_form_are_read(tmp_path: Path, zipped: bool) -> None:
    """Tied weights have two names for one tensor."""
    one = torch.arange(6.0).reshape(2, 3)
    state = {"a": one, "b": one, "c": torch.arange(3), "d": one.T}
    torch.save({"model_state_dict": state, "epoch": 3}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    found = read_weights(tmp_path / "w.pt")
    assert {name: value.tolist() for name, value in found.items()} == {k: v.tolist() for k, v in state.items()}
