from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from tsa.errors import ConfigError, StoreError
from tsa.files.reading import read_small_file
from tsa.files.writing import ArrayWriter, atomic_file, atomic_folder, read_json, write_json


def test_an_array_written_in_pieces_is_the_array(tmp_path: Path) -> None:
    array = np.arange(20, dtype=np.int64).reshape(10, 2)
    with ArrayWriter(tmp_path / "a.npy", np.int64, (10, 2)) as writer:
        writer.append(array[:3])
        writer.append(array.T[:, 3:].T)
    assert np.load(tmp_path / "a.npy").tolist() == array.tolist()
    assert writer.entry["sha256"] == hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    assert writer.entry["bytes"] == (tmp_path / "a.npy").stat().st_size


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0)])
def test_an_empty_array_can_be_mapped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with ArrayWriter(tmp_path / "a.npy", np.float32, shape) as writer:
        writer.append(np.zeros(shape, np.float32))
    assert np.load(tmp_path / "a.npy", mmap_mode="r").shape == shape


def test_too_few_rows_or_other_shapes_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"must get 3 rows [(]got 2"),
        ArrayWriter(tmp_path / "a", np.int8, (3,)) as w,
    ):
        w.append(np.zeros(2, np.int8))
    with pytest.raises(ValueError, match="takes rows of shape"), ArrayWriter(tmp_path / "a", np.int8, (3,)) as w:
        w.append(np.zeros((3, 1), np.int8))


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 0.1 + 0.2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert "0.30000000000000004" in (tmp_path / "a.json").read_text()


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"), atomic_file(tmp_path / "a") as aside:
        aside.with_name("nowhere").rename(aside)
    assert list(tmp_path.iterdir()) == []
    with atomic_file(tmp_path / "deep" / "a") as aside:
        aside.write_text("whole")
    assert (tmp_path / "deep" / "a").read_text() == "whole"


def test_a_folder_appears_whole_and_replaces_only_its_kind(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "deep" / "out", "marker") as folder:
            (folder / "marker").write_text(content)
        assert (tmp_path / "deep" / "out" / "marker").read_text() == content
    with pytest.raises(ConfigError), atomic_folder(tmp_path / "deep" / "out", "another"):
        pass
    with pytest.raises(ConfigError), atomic_folder(tmp_path / "deep" / "out" / "marker", "marker"):
        pass
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[1, 2]", r"x\.json must hold a JSON object \(got \[1, 2\]\)"),
        (b"null", r"must hold a JSON object \(got None\)"),
        (b"{", "x\\.json cannot be read as JSON: "),
        (b"\xff\x00", "cannot be read as JSON: "),
        (b"[" * 200_000, "cannot be read as JSON: "),
        (b"1" * 5000, "cannot be read as JSON: "),
        (None, r"x\.json cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_object_of_json(tmp_path: Path, content: bytes | None, text: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(StoreError, match=text):
        read_json(tmp_path / "x.json", StoreError)


def test_an_object_of_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": ["é", 0.1]})
    assert read_json(tmp_path / "x.json", StoreError) == {"a": ["é", 0.1]}


def test_small_files_are_regular_and_small(tmp_path: Path) -> None:
    """A pipe would block a server, and a device has no end."""
    path, pipe = tmp_path / "secret", tmp_path / "pipe"
    path.write_bytes(b"x" * 100)
    os.mkfifo(pipe)
    assert read_small_file(path, 100) == b"x" * 100
    with pytest.raises(ConfigError, match=r"at most 99 bytes \(got 100\)"):
        read_small_file(path, 99)
    for other in (pipe, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="must be a file, which can be read again"):
            read_small_file(other)
    with pytest.raises(OSError, match="No such file"):
        read_small_file(tmp_path / "none")
