"""The population stability index, which the report, `bundle diff` and `monitor` share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsa.evaluation.metrics.calibration import population_stability
from tsa.evaluation.metrics.psi import bin_counts, bin_of, equal_mass_edges, psi, psi_of_shares
from tsa.monitoring.bin_counts import Feature, count_numbers
from tsa.monitoring.stability import stability


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=60),
)
def test_psi(one: list[float], other: list[float]) -> None:
    assert psi(one, one) == 0.0
    assert psi(one, other) >= 0.0
    assert np.isfinite(psi(one, other))
    assert psi(one, [value + 1e7 for value in one]) > 0.25


def test_psi_by_hand() -> None:
    assert psi_of_shares([50, 50], [80, 20]) == pytest.approx(0.3 * np.log(1.6) - 0.3 * np.log(0.4))
    assert psi_of_shares([1, 1], [5, 5]) == 0.0
    assert psi_of_shares([1, 0], [0, 0]) == 0.0


def monitored(reference: np.ndarray, current: np.ndarray) -> float:
    """The index as `tsa monitor` has it, of a numerical feature in one window."""
    feature = Feature(name="x", kind="numerical", edges=equal_mass_edges(reference))
    counts = [count_numbers(x, feature.edges, np.zeros(len(x), np.int64), 1) for x in (reference, current)]
    return float(stability(feature, *counts)["psi"])


def samples() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    scores = rng.beta(0.3, 20, 3000)
    return {
        "smooth": (scores, rng.beta(0.4, 20, 2000)),
        "rounded": (scores.round(2), rng.beta(0.4, 20, 2000).round(2)),
        "mostly one value": (np.append(np.zeros(900), scores[:100]), np.append(np.zeros(500), scores[100:600])),
        "constant, then another value": (np.full(100, 0.5), np.full(100, 0.25)),
        "float32": (scores.astype(np.float32), rng.beta(0.4, 20, 500).astype(np.float32)),
        "few": (np.array([0.1, 0.2, 0.2]), np.array([0.2, 0.3])),
    }


@pytest.mark.parametrize("name", samples())
def test_report_diff_and_monitor_agree(name: str) -> None:
    reference, current = samples()[name]
    expected = psi(reference, current)
    assert population_stability(reference, current)["value"] == pytest.approx(expected, rel=1e-12)
    assert monitored(reference, current) == pytest.approx(expected, rel=1e-12)
    assert psi(reference, reference) == population_stability(reference, reference)["value"] == 0


def test_a_value_that_was_constant_is_seen_to_leave_either_way() -> None:
    assert psi(np.full(100, 0.5), np.full(100, 0.4)) > 5
    assert psi(np.full(100, 0.5), np.full(100, 0.6)) > 5
    assert population_stability(np.full(100, 0.5), np.full(100, 0.4))["value"] > 5


def test_bins_of_the_report_hold_what_they_say() -> None:
    reference, current = samples()["rounded"]
    rows = population_stability(reference, current)["bins"]
    for row in rows:
        low = -np.inf if row["low"] is None else row["low"]
        high = np.inf if row["high"] is None else row["high"]
        assert row["reference"] == np.mean((reference >= low) & (reference < high))
        assert row["current"] == np.mean((current >= low) & (current < high))
    assert sum(row["reference"] for row in rows) == pytest.approx(1)


def test_bins() -> None:
    assert bin_of(np.array([0.0, 1.0, 1.5, 2.0, 9.0]), (1.0, 2.0)).tolist() == [0, 1, 1, 2, 2]
    assert bin_counts(np.array([0.0, np.nan, 2.0]), (1.0,)).tolist() == [1, 1]
    assert equal_mass_edges(np.array([np.nan])) == ()
    assert bin_counts(np.array([np.nan]), ()).tolist() == [0]


def test_missing_values_are_a_bin_of_their_own() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan])
    assert psi(values, values) == 0
    assert psi(values, np.array([1.0, 2.0, 3.0])) > 0.25
