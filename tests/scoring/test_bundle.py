"""A bundle comes back as it was saved; one that is not, to the byte, what was written is refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tsa.data.store import EventStore
from tsa.errors import BundleError, ConfigError
from tsa.scoring.bundle import CALIBRATION, FILES, MANIFEST, Bundle
from tsa.scoring.calibration import Calibration
from tsa.scoring.scorer import Scorer

ALL = (*FILES, CALIBRATION)


@pytest.fixture
def bundle(demo_run: Path, tmp_path: Path) -> Path:
    """A bundle with every file that one can have."""
    scores = np.linspace(0, 1, 3000)
    labels = np.random.default_rng(0).random(3000) < scores**3
    calibration = Calibration.fit(scores=scores, labels=labels.astype(int))
    replace(Bundle.open(demo_run / "bundle"), calibration=calibration).save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_round_trip(bundle: Path, demo_store: EventStore, tmp_path: Path) -> None:
    first = Bundle.open(bundle)
    first.save(tmp_path / "again")
    second = Bundle.open(tmp_path / "again")
    for left, right in zip(first.network.state_dict().items(), second.network.state_dict().items(), strict=True):
        assert left[0] == right[0]
        assert torch.equal(left[1], right[1])
    assert (first.market, first.config, first.training) == (second.market, second.config, second.training)
    assert first.encoder.to_dict() == second.encoder.to_dict() == demo_store.encoder.to_dict()
    assert first.calibration == second.calibration
    for name in (*ALL, MANIFEST):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes(), name
    rows = np.arange(600)
    scores = [Scorer(made).score_rows(demo_store, rows) for made in (first, second)]
    np.testing.assert_array_equal(*scores)
    assert not second.network.training


def test_a_bundle_replaces_a_bundle_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    Bundle.open(bundle).save(bundle)
    Bundle.open(bundle)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        Bundle.open(bundle).save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("name", ALL)
def test_a_changed_byte_is_refused(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    for at in {0, 1, 7, len(content) // 3, len(content) // 2, len(content) - 1}:
        for bit in (1, 32):
            (bundle / name).write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            with pytest.raises(BundleError, match=f"{name} was changed"):
                Bundle.open(bundle)
    for other in (b"", content[:-1], content + b"\n"):
        (bundle / name).write_bytes(other)
        with pytest.raises(BundleError, match=f"{name} was changed"):
            Bundle.open(bundle)


def test_any_changed_byte_of_the_manifest_is_refused(bundle: Path) -> None:
    content = (bundle / MANIFEST).read_bytes()
    for at in range(len(content)):
        bit = (1, 32, 128)[at % 3]
        (bundle / MANIFEST).write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
        with pytest.raises(BundleError, match=r"manifest\.json"):
            Bundle.open(bundle)


def test_a_manifest_that_was_rewritten_is_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    del manifest["files"]["encoder.json"]
    (bundle / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    with pytest.raises(BundleError, match=r"manifest\.json was changed"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", [*ALL, MANIFEST])
def test_a_missing_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=name):
        Bundle.open(bundle)
    (bundle / name).mkdir()
    with pytest.raises(BundleError, match=name):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "weights.bin"])
def test_an_extra_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).touch()
    with pytest.raises(BundleError, match=f"{name} does not belong to the bundle"):
        Bundle.open(bundle)


def test_a_bundle_without_calibration_is_whole(bundle: Path, tmp_path: Path) -> None:
    """And what it lacks cannot be slipped in later."""
    plain = tmp_path / "plain"
    replace(Bundle.open(bundle), calibration=None).save(plain)
    assert not (plain / CALIBRATION).exists()
    assert Bundle.open(plain).calibration is None
    shutil.copy(bundle / CALIBRATION, plain)
    with pytest.raises(BundleError, match=r"calibration\.json does not belong to the bundle"):
        Bundle.open(plain)


def test_a_calibration_that_says_what_it_lacks(bundle: Path) -> None:
    short = Calibration.fit(scores=np.linspace(0, 1, 50), labels=np.zeros(50, int))
    replace(Bundle.open(bundle), calibration=short).save(bundle)
    found = Bundle.open(bundle).calibration
    assert found == short
    assert found is not None
    assert found.note is not None
    assert "1,000 payments" in found.note


def test_files_of_another_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    """Each whole by itself, but not of one bundle."""
    made = Bundle.open(bundle)
    with torch.no_grad():
        next(made.network.parameters()).add_(1.0)
    made.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.safetensors", bundle)
    with pytest.raises(BundleError, match=r"weights\.safetensors was changed"):
        Bundle.open(bundle)


def test_what_is_no_bundle(bundle: Path, demo_run: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere is not a bundle"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(bundle / "model.json")
    with pytest.raises(BundleError, match=r"did you mean .*bundle"):
        Bundle.open(demo_run)


def test_another_version_is_refused(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text().replace('"version": 1', '"version": 2')
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="reads bundles of version 1, however: version=2"):
        Bundle.open(bundle)


def test_nothing_in_it_can_execute(bundle: Path) -> None:
    """JSON and safetensors: no pickle, which safetensors would not have either."""
    for name in ALL:
        content = (bundle / name).read_bytes()
        assert name.endswith((".json", ".safetensors"))
        assert not content.startswith((b"\x80", b"PK"))
