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
    assert entries["training.patience"].is_integer
    assert not entries["model.dropout"].is_integer


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
        ({}, "the search space must contain at least one setting"),
        (
            {"market": {"x": [1, 2]}},
            r"the search space must contain only the sections training and model [(]got market",
        ),
        ({"training": 3}, r"the search space must contain only the sections training and model [(]got training"),
        (
            {"training": {"learning_rte": [1, 2]}},
            "training.learning_rte: unknown key; did you mean `learning_rate`",
        ),
        (
            {"training": {"epochs": 3}},
            r"training.epochs must be a list of values or a table with low and high [(]got 3",
        ),
        ({"training": {"epochs": [3]}}, r"training.epochs must list two or more .* [(]got \[3\]"),
        ({"training": {"epochs": [3, 3]}}, r"training.epochs must list each value once [(]got \[3, 3\]"),
        ({"training": {"betas": [[0.9, 0.99], [0.8, 0.9]]}}, "training.betas must list two or more numbers, texts"),
        ({"training": {"epochs": {"low": 3, "hi": 4}}}, r"training.epochs takes low, high and log [(]got hi"),
        ({"training": {"epochs": {"low": 3}}}, r"training.epochs.high must be a number [(]got None"),
        ({"training": {"epochs": {"low": "3", "high": 4}}}, r"training.epochs.low must be a number [(]got '3'"),
        ({"training": {"epochs": {"low": True, "high": 4}}}, r"training.epochs.low must be a number [(]got True"),
        ({"training": {"seed": {"low": 0, "high": float("inf")}}}, r"training.seed.high must be a number [(]got inf"),
        ({"training": {"epochs": {"low": 4, "high": 3}}}, r"epochs: low must be below high [(]got low=4, high=3"),
        ({"training": {"epochs": {"low": 4, "high": 4}}}, "training.epochs: low must be below high"),
        ({"model": {"dropout": {"low": 0, "high": 1, "log": True}}}, r"dropout: log needs low above 0 [(]got low=0"),
        (
            {"model": {"dropout": {"low": 0, "high": 1, "log": 1}}},
            r"model.dropout.log must be true or false [(]got 1",
        ),
    ],
)
def test_bad_spaces_are_refused(table: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Space.from_dict(table)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[training", r"must be TOML [(]got "),
        (b"\xff", r"must be TOML [(]got "),
        (b"", "must contain at least one setting"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "space.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"space.toml.*{text}"):
        Space.read(tmp_path / "space.toml")
    with pytest.raises(ConfigError, match=r"missing\.toml: no such file"):
        Space.read(tmp_path / "missing.toml")
