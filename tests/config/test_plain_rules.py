"""Pydantic's errors in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from tsa.config.plain_rules import place_in_words, plain_rule


class _Inner(BaseModel):
    length: int = 1


class _Table(BaseModel):
    count: int = 1
    share: float = 0.5
    on: bool = True
    name: str = "a"
    folder: Path = Path("x")
    executor: Literal["local", "ray"] = "local"
    names: tuple[str, ...] = ()
    features: _Inner = _Inner()
    counts: dict[str, int] = {}


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ({"count": "ten"}, "must be a whole number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"count": []}, "must be a whole number"),
        ({"share": "half"}, "must be a number"),
        ({"on": "maybe"}, "must be true or false"),
        ({"name": 3}, "must be a text in quotes"),
        ({"folder": 3}, "must be a path"),
        ({"executor": "dask"}, "must be local or ray"),
        ({"names": "country"}, 'must be a list, such as ["a", "b"]'),
        ({"features": 3}, "must be a table, [features]"),
        ({"counts": 3}, "must be a table, [counts]"),
    ],
)
def test_each_kind_of_error(value: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Table.model_validate(value)
    assert [plain_rule(dict(detail)) for detail in caught.value.errors()] == [rule]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("label", "delay_days"), "label.delay_days"),
        (("history", 0, "length"), "[[history]] 'customer': length"),
        (("features", "numerical", 0, "name"), "[[features.numerical]] 'amount': name"),
        (("split", "train", 1), "split.train, end"),
        (("split", "fractions", 1), "split.fractions, entry 2"),
        (("history", 7, "length"), "history, entry 8, length"),
        ((), ""),
    ],
)
def test_places_by_name(place: tuple[str | int, ...], words: str) -> None:
    table: Any = {"history": [{"name": "customer"}], "features": {"numerical": ["amount"]}}

    def value_at(part: tuple[str | int, ...]) -> Any:
        value = table
        for key in part:
            try:
                value = value[key]
            except (KeyError, IndexError):
                return None
        return value

    assert place_in_words(place, value_at, ("train",)) == words
