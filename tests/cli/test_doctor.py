"""`tsa doctor`: its extras are those of pyproject.toml, and each finding comes from what causes it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tsa.cli.doctor import EXTRAS, FLAGS, LIBRARIES, examine, findings_of, usable_cores
from tsa.errors import ConfigError

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FINE: dict[str, Any] = {
    **{"versions": dict.fromkeys(LIBRARIES, "1"), "cores": 4.0, "threads": {"torch": 4, "polars": 4}},
    **{"speed": {"one thread": 10.0, "threads": 35.0}, "flags": list(FLAGS), "gpus": ["one"]},
    **{"extras": {name: [] for name in EXTRAS}, "memory": 2**40, "free_disk": 2**40},
}


def test_the_extras_are_those_of_the_package() -> None:
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"dev", "docs", "release", "notebooks"}


def test_of_this_machine() -> None:
    found = examine()
    assert found.versions["torch"]
    assert found.speed["one thread"] > 0
    assert 0 < found.cores <= found.cores_of_machine == found.to_dict()["cores_of_machine"]
    assert usable_cores() == found.cores


def test_a_library_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"PyTorch and Polars must load on Python .*torch.*pip install"):
        examine()


def test_nothing_to_say_of_a_good_machine() -> None:
    assert list(findings_of(FINE)) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"versions": {**FINE["versions"], "lightgbm": None}}, "lightgbm missing"),
        ({"threads": {"torch": 8, "polars": 4}}, "8 threads share 4 cores"),
        ({"speed": {"one thread": 10.0, "threads": 9.0}}, "no faster than one"),
        ({"flags": ["avx2", "avx512f"]}, "no bfloat16"),
        ({"gpus": []}, "no GPU"),
        ({"extras": {**FINE["extras"], "onnx": ["onnx"]}}, "ONNX Runtime"),
        ({"memory": 2**30}, "1.0 GB of memory"),
        ({"free_disk": 2**30}, "1.0 GB free"),
    ],
)
def test_each_finding(change: dict[str, Any], text: str) -> None:
    (finding,) = findings_of({**FINE, **change})
    assert text in finding.why
    assert finding.advice
