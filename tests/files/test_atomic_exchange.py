"""Two folders change places in one step, or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tsa.files import atomic_exchange
from tsa.files.atomic_exchange import exchange


def two_folders(folder: Path) -> tuple[Path, Path]:
    for name in ("one", "other"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)
    return folder / "one", folder / "other"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux can exchange paths")
def test_two_folders_change_places(tmp_path: Path) -> None:
    one, other = two_folders(tmp_path)
    assert exchange(one, other)
    assert [(path / "file").read_text() for path in (one, other)] == ["other", "one"]
    with pytest.raises(FileNotFoundError, match="nothing"):
        exchange(one, tmp_path / "nothing")


def test_a_system_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_exchange, "_renameat2", lambda: None)
    one, other = two_folders(tmp_path)
    assert not exchange(one, other)
    assert [(path / "file").read_text() for path in (one, other)] == ["one", "other"]
