"""The space of a search: what a TOML file may say, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tsa.errors import ConfigError
from tsa.tuning.space import Choice, Range, Space

TOML = """
[training]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = [128, 256]
patience = { low = 1, high = 3 }

[model]
dropout = { low = 0, high = 0.5 }
"""


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(TOML)
    entries = Space.read(tmp_path / "space.toml").entries
    assert entries == {
        "training.learning_rate": Range(low=1e-4, high=1e-2, log=True),
        "training.batch_size": Choice((128, 256)),
        "training.patience": Range(low=1, high=3),
        "model.dropout": Range(low=0, high=0.5),
    }
    assert entries["training.patience"].whole
    assert not entries["model.dropout"].whole


def test_what_lies_in_it() -> None:
    assert Range(low=1, high=3).contains(3)
    assert not Range(low=1, high=3).contains(2.5)
    assert Range(low=0, high=0.5).contains(0.25)
    assert not Range(low=0, high=0.5).contains(0.6)
    assert not Range(low=0, high=0.5).contains(None)
    assert Choice(("a", 2)).contains(2)
    assert not Choice(("a", 2)).contains("b")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, "a space must name a setting to search, however: it is empty"),
        ({"market": {"x": [1, 2]}}, "a space has the tables training and model, however: market"),
        ({"training": 3}, "a space has the tables training and model, however: training"),
        (
            {"training": {"learning_rte": [1, 2]}},
            "training.learning_rte: unknown setting; did you mean `learning_rate`",
        ),
        (
            {"training": {"epochs": 3}},
            "training.epochs must be a list of values or a table with low and high, however: 3",
        ),
        ({"training": {"epochs": [3]}}, r"training.epochs must list two or more .* however: \[3\]"),
        ({"training": {"epochs": [3, 3]}}, r"training.epochs must list each value once, however: \[3, 3\]"),
        ({"training": {"betas": [[0.9, 0.99], [0.8, 0.9]]}}, "training.betas must list two or more numbers, texts"),
        ({"training": {"epochs": {"low": 3, "hi": 4}}}, "training.epochs takes low, high and log, however: hi"),
        ({"training": {"epochs": {"low": 3}}}, "training.epochs.high must be a number, however: None"),
        ({"training": {"epochs": {"low": "3", "high": 4}}}, "training.epochs.low must be a number, however: '3'"),
        ({"training": {"epochs": {"low": True, "high": 4}}}, "training.epochs.low must be a number, however: True"),
        ({"training": {"seed": {"low": 0, "high": float("inf")}}}, "training.seed.high must be a number, however: inf"),
        ({"training": {"epochs": {"low": 4, "high": 3}}}, "epochs: low must be below high, however: low=4, high=3"),
        ({"training": {"epochs": {"low": 4, "high": 4}}}, "training.epochs: low must be below high"),
        ({"model": {"dropout": {"low": 0, "high": 1, "log": True}}}, "dropout: log needs low above 0, however: low=0"),
        (
            {"model": {"dropout": {"low": 0, "high": 1, "log": 1}}},
            "model.dropout.log must be true or false, however: 1",
        ),
    ],
)
def test_bad_spaces_are_refused(table: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Space.from_dict(table)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"[training", "must be TOML, however: "), (b"\xff", "must be TOML, however: "), (b"", "it is empty")],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "space.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"space.toml.*{text}"):
        Space.read(tmp_path / "space.toml")
    with pytest.raises(ConfigError, match=r"missing\.toml: no such file"):
        Space.read(tmp_path / "missing.toml")
