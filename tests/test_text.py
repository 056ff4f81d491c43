"""Texts and values as messages show them: bounded, on one line, and the beginning as it is."""

import time

import numpy as np
import pytest

from tsa.text import brief, shorten, truncate_repr


def test_shorten_keeps_the_beginning_and_the_bound() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcdefgh", 6) == "abc..."
    assert shorten("abcdefgh", 6, "…") == "abcde…"
    assert [len(shorten("abcdefgh", most)) for most in range(9)] == list(range(9))


def test_brief_is_one_line() -> None:
    assert brief(" one\n  two\tthree ") == "one two three"
    assert brief(ValueError("x" * 200), 10) == "xxxxxxx..."
    assert brief(None) == "None"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1.5,
        "a 'b'\n",
        "x" * 500,
        list(range(500)),
        ("a", 1),
        {"b": 1},
        {"key": ["x" * 90, 2]},
        [[], [[1]]],
        b"ab",
    ],
)
@pytest.mark.parametrize("most", [10, 40, 100])
def test_a_value_is_shown_as_python_spells_it_and_cut(value: object, most: int) -> None:
    assert truncate_repr(value, most) == shorten(repr(value), most)


def test_no_value_is_too_large_to_be_shown_at_once() -> None:
    """A list of 10^16 parts takes a few hundred bytes: sixteen lists, each of ten times the one before."""
    value: list[object] = [0]
    for _ in range(16):
        value = [value] * 10
    began = time.perf_counter()
    for large in (
        value,
        [value] * 1000,
        "x" * 10**7,
        list(range(10**6)),
        dict.fromkeys(range(1000), value),
        np.zeros(10**6),
    ):
        assert len(truncate_repr(large, 100)) <= 100
    assert time.perf_counter() - began < 2


def test_a_number_that_python_does_not_spell() -> None:
    assert truncate_repr(10**5000, 60) == "int with too many digits to show"
    assert truncate_repr([10**5000], 60) == "list with too many digits to show"


def test_a_list_that_holds_itself() -> None:
    value: list[object] = [1]
    value.append(value)
    assert truncate_repr(value).startswith("[1, [1, [1, ")
