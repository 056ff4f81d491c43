"""Ticks are few, round and inside; labels have the digits they need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsa.evaluation.report.svg import Axis, Series, chart, interval_bar, tick_label, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 8))
def test_ticks_are_few_even_and_inside(low, span, most):
    found = ticks(low, low + span, most)
    assert 1 <= len(found) <= most
    tolerance = 1e-6 * max(1.0, abs(low), span)
    assert low - tolerance <= found[0]
    assert found[-1] <= low + span + tolerance
    assert np.allclose(np.diff(found, 2), 0, atol=tolerance)


def test_ticks_are_round():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(1, 3, integers=True) == [1, 2, 3]
    assert ticks(5, 5) == [5]


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.2, 0.2, "0.2"),
        (0.25, 0.05, "0.25"),
        (10_000, 1, "10k"),
        (2e6, 1, "2M"),
        (-2e9, 1e9, "-2B"),
        (7.5e12, 1, "7.5T"),
        (5, 1, "5"),
        (0.3, 0.1, "0.3"),
    ],
)
def test_labels_have_the_digits_of_their_step(value, step, text):
    assert tick_label(value, step, Axis(label="")) == text


def test_one_point_and_none_can_be_drawn():
    for x, y in (([], []), ([1], [0.5])):
        drawn = chart(
            "a", "t", "d", Axis(label="x", low=1, high=1), Axis(label="y"), [Series(name="s", x=x, y=y, dots=True)]
        )
        assert "nan" not in drawn
        assert drawn.startswith("<svg")


def test_names_are_escaped():
    drawn = chart("a", "<t>", "<d>", Axis(label="<x>", labels=["<l>"]), Axis(label="<y>"), [])
    assert not any(f"<{name}>" in drawn.replace("<title", "").replace("<desc", "") for name in "tdxly")


def test_interval_bar():
    assert interval_bar(None, None, None) == ""
    assert 'd="M2 6H78"' in interval_bar(0.5, 0.25, 0.75)
    assert 'd="M21 6H59"' in interval_bar(0.5, 0.25, 0.75)
    assert 'cx="40"' in interval_bar(0.5, None, None)
