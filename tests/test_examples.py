"""The `Example:` of each public name is run, in a folder with a market file, a log and a finished run."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

import tsa


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_run: Path, demo_log: Path, demo_market: Path) -> Path:
    """market.toml, payments.parquet and run/."""
    for path in demo_market.parent.glob("*.toml"):
        shutil.copyfile(path, tmp_path / path.name)
    market = (tmp_path / demo_market.name).read_text(encoding="utf-8")
    (tmp_path / "market.toml").write_text(market, encoding="utf-8")
    shutil.copyfile(demo_log, tmp_path / "payments.parquet")
    shutil.copytree(demo_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", tsa.__all__)
def test_the_example_runs(name: str) -> None:
    text = getattr(tsa, name).__doc__
    assert "\n    Example:\n" in text
    example = doctest.DocTestParser().get_doctest(text, {"tsa": tsa}, name, None, None)
    assert len(example.examples) > 0
    lines: list[str] = []
    result = doctest.DocTestRunner().run(example, out=lines.append)
    assert result.failed == 0, "".join(lines)


def test_a_wrong_example_fails() -> None:
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner().run(example, out=lambda _: None).failed == 1
