"""A bundle comes back as it was saved; one that is not, to the byte, what was written is refused by name."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tsa.bundle.archive import to_tar_gz, write_contents
from tsa.bundle.bundle import CALIBRATION, FILES, MANIFEST, OPTIONAL, Bundle
from tsa.bundle.decisions import Decision, DecisionPolicy
from tsa.bundle.signing import read_bundle
from tsa.calibration.calibration import Calibration
from tsa.data.store.store import EventStore
from tsa.errors import BundleError, ConfigError
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import MEAN
from tsa.model.tree_model import TreeModel
from tsa.training.parts.trees import fit_trees

ALL = (*FILES, *OPTIONAL)
GRAPH = b"\x08\x08\x3a\x06\x12\x04none"
"""A model with an empty graph, as protocol buffers spell it. It is not run here."""


def contents_of(path: Path) -> dict[str, bytes]:
    return read_bundle(path)[0]


@pytest.fixture(scope="module")
def trees(demo_store: EventStore) -> TreeModel:
    rows = [demo_store.labelled(name) for name in ("train", "validation")]
    return fit_trees(demo_store, *rows, seed=0, threads=1)


@pytest.fixture
def bundle(demo_run: Path, trees: TreeModel, tmp_path: Path) -> Path:
    """A bundle with every file that one can have."""
    scores = np.linspace(0, 1, 3000)
    labels = np.random.default_rng(0).random(3000) < scores**3
    calibration = Calibration.fit(scores=scores, labels=labels.astype(int))
    thresholds = DecisionPolicy(score="percentile", decisions=(Decision("review", 0.98), Decision("decline", 0.999)))
    graphs = {"float32": GRAPH + b"\x12\x05plain", "int8": GRAPH + b"\x12\x05small", "trees": GRAPH + b"\x12\x05trees"}
    parts = {"calibration": calibration, "thresholds": thresholds, "graphs": graphs}
    parts |= {"trees": trees, "joining": MEAN, "choice": {"form": "combined"}}
    replace(Bundle.open(demo_run / "bundle"), **parts).save(tmp_path / "bundle")
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
    assert first.thresholds == second.thresholds
    assert (first.metrics, first.data, first.graphs) == (second.metrics, second.data, second.graphs)
    assert first.sha256 == second.sha256 is not None
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
    (bundle / name).rmdir()
    (bundle / name).symlink_to(bundle / "model.json")
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


@pytest.mark.parametrize("version", [2, 3, 5])
def test_another_version_is_refused(bundle: Path, version: int) -> None:
    text = (bundle / MANIFEST).read_text().replace('"version": 4', f'"version": {version}')
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=rf"reads bundles of version 4 [(]got version={version}.*again"):
        Bundle.open(bundle)


def test_nothing_in_it_can_execute(bundle: Path) -> None:
    """JSON, safetensors, graphs and texts: no pickle, which safetensors would not have either."""
    for name in ALL:
        content = (bundle / name).read_bytes()
        assert name.endswith((".json", ".safetensors", ".onnx", ".md", ".txt"))
        assert not content.startswith((b"\x80", b"PK"))


@pytest.fixture
def archive(bundle: Path, tmp_path: Path) -> Path:
    Bundle.open(bundle).save(tmp_path / "bundle.tar.gz")
    return tmp_path / "bundle.tar.gz"


def test_an_archive_is_the_same_bundle(bundle: Path, archive: Path, tmp_path: Path) -> None:
    one, other = Bundle.open(bundle), Bundle.open(archive)
    assert one.sha256 == other.sha256
    assert contents_of(bundle) == contents_of(archive)
    other.save(tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == archive.read_bytes(), "the same bytes every time"
    other.save(tmp_path / "unpacked")
    assert contents_of(tmp_path / "unpacked") == contents_of(bundle)


@pytest.mark.parametrize("name", [*ALL, MANIFEST])
def test_a_changed_archive_is_refused(archive: Path, name: str) -> None:
    contents = contents_of(archive)
    changed = contents[name][:-2] + bytes([contents[name][-2] ^ 1]) + contents[name][-1:]
    archive.write_bytes(to_tar_gz({**contents, name: changed}))
    with pytest.raises(BundleError, match=f"{name} (was changed|is damaged)"):
        Bundle.open(archive)
    archive.write_bytes(to_tar_gz({key: value for key, value in contents.items() if key != name}))
    with pytest.raises(BundleError, match=f"{name} is missing|has no {name}"):
        Bundle.open(archive)
    archive.write_bytes(to_tar_gz({**contents, "extra.py": b"import os"}))
    with pytest.raises(BundleError, match=r"extra\.py does not belong to the bundle"):
        Bundle.open(archive)


def test_a_torn_archive_is_refused(archive: Path) -> None:
    whole = archive.read_bytes()
    for part in (
        b"",
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-20],
        b"PK" + whole,
        whole[:50] + b"x" + whole[51:],
    ):
        archive.write_bytes(part)
        with pytest.raises(BundleError):
            Bundle.open(archive)


KINDS = {
    "link": tarfile.LNKTYPE,
    "symlink": tarfile.SYMTYPE,
    "folder": tarfile.DIRTYPE,
    "device": tarfile.CHRTYPE,
    "pipe": tarfile.FIFOTYPE,
    "sparse": tarfile.GNUTYPE_SPARSE,
    "long name": tarfile.GNUTYPE_LONGNAME,
    "extension": tarfile.XHDTYPE,
}
NAMES = {"path": "../model.json", "below": "model.json/model.json", "odd": "\x1b[2Jmodel.json"}


def hostile(contents: dict[str, bytes], kind: str, where: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files, with something odd in the place of model.json."""
    for name in sorted(contents):
        if name != "model.json" or kind == "twice":
            yield tarfile.TarInfo(name), contents[name]
    member = tarfile.TarInfo(str(where) if kind == "absolute" else NAMES.get(kind, "model.json"))
    member.type = KINDS.get(kind, tarfile.REGTYPE)
    member.linkname = "/etc/passwd" if "link" in kind else ""
    yield member, contents["model.json"] if member.isreg() else b""


@pytest.mark.parametrize("kind", [*KINDS, *NAMES, "absolute", "twice"])
def test_a_hostile_archive_is_refused(archive: Path, tmp_path: Path, kind: str) -> None:
    """Nothing leaves the archive, and nothing but plain files is looked at."""
    contents = contents_of(archive)
    with tarfile.open(archive, "w:gz", format=tarfile.GNU_FORMAT) as made:
        for member, data in hostile(contents, kind, tmp_path / "model.json"):
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    with pytest.raises(BundleError, match=r"does not belong|must be a regular file") as refused:
        Bundle.open(archive)
    assert str(refused.value).isprintable()
    assert not (tmp_path / "model.json").exists()


@pytest.mark.parametrize("after", [b"more", b"\0" * 2**21, b"\0" * 512 + b"more"])
def test_nothing_stands_after_the_end(archive: Path, after: bytes) -> None:
    plain = gzip.decompress(archive.read_bytes())
    archive.write_bytes(gzip.compress(plain + b"\0" * 100))
    assert Bundle.open(archive), "zeros to fill a block are as tar writes them"
    archive.write_bytes(gzip.compress(plain + after))
    with pytest.raises(BundleError, match="must end after its last file"):
        Bundle.open(archive)


def test_too_much_is_refused(archive: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is read: by what the header says, which is all that is read then."""
    from tsa.bundle import archive as room

    header = tarfile.TarInfo("weights.safetensors")
    header.size = 5 * 2**30
    archive.write_bytes(gzip.compress(header.tobuf()))
    with pytest.raises(BundleError, match=r"weights.safetensors must have at most 4,294,967,296 bytes"):
        Bundle.open(archive)
    Bundle.open(bundle).save(archive.with_name("whole.tar.gz"))
    with (bundle / "metrics.json").open("r+b") as file:
        file.truncate(300 * 2**20)  # a hole: it takes no room
    with pytest.raises(BundleError, match=r"metrics.json must have at most 268,435,456 bytes"):
        Bundle.open(bundle)
    monkeypatch.setattr(room, "MAX_BYTES", 1000)
    with pytest.raises(BundleError, match="must have at most 1,000 bytes"):
        Bundle.open(archive.with_name("whole.tar.gz"))


def test_an_archive_replaces_a_bundle_and_nothing_else(bundle: Path, archive: Path, tmp_path: Path) -> None:
    Bundle.open(bundle).save(archive)
    for name, data in (("letter.tgz", b"dear"), ("other.tar.gz", gzip.compress(b"\0" * 10_240)), ("empty.tgz", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match="must be a bundle to be replaced"):
            Bundle.open(bundle).save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == data


def test_the_card_tells_what_is_there(bundle: Path, demo_run: Path) -> None:
    card = (bundle / "model_card.md").read_text()
    report = json.loads((demo_run / "report.json").read_text())
    evaluation = report["evaluation"]
    assert f"{evaluation['n']:,} payments, {evaluation['frauds']:,} of them fraud" in card
    assert f"{evaluation['metrics']['roc_auc']['value']:.3f}" in card
    assert report["comparison"]["summary"] in card
    assert "Of 6,000 rows read, 6,000 were used" in card
    for text in (
        "## Intended use",
        "## Limits",
        "By `channel`",
        "| store |",
        "`decline` from a percentile of 0.999 on",
    ):
        assert text in card
    assert "The log odds of a score are 0.5 x network + 0.5 x trees + 0." in card
    assert str(demo_run) not in card
    plain = replace(Bundle.open(bundle), metrics=None, data=None, calibration=None, thresholds=None)
    text = plain.contents()["model_card.md"].decode()
    assert "It has not been evaluated" in text
    assert "There is no summary of its data." in text


def test_evaluation_seals_its_metrics(demo_run: Path) -> None:
    made = Bundle.open(demo_run / "bundle")
    assert made.metrics is not None
    assert made.data is not None
    report = json.loads((demo_run / "report.json").read_text())
    assert made.metrics["evaluation"]["metrics"] == report["evaluation"]["metrics"]
    assert made.metrics["comparison"]["summary"] == report["comparison"]["summary"]
    assert made.data["rows_read"] == 6000
    assert made.data["splits"]["test"]["n"] == report["data"]["splits"]["test"]["n"]
    assert all("/" not in file for file in made.data["files"])


def test_contents_are_written_as_they_are(bundle: Path, tmp_path: Path) -> None:
    contents = contents_of(bundle)
    write_contents(contents, tmp_path / "copy")
    assert contents_of(tmp_path / "copy") == contents
