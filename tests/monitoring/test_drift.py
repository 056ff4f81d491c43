"""What monitoring counts: bins, the stability index, windows, volume, and which outcomes are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.errors import ConfigError
from tsa.evaluation.metrics.psi import equal_mass_edges
from tsa.monitoring.bin_counts import Counts, Feature, count_numbers
from tsa.monitoring.drift import compare_volume
from tsa.monitoring.performance import performance
from tsa.monitoring.scores import count_days
from tsa.monitoring.stability import per_hour, stability
from tsa.monitoring.windows import ScoredWindow, Windows

DAY = 86_400
MONDAY = 1_525_651_200  # 2018-05-07
NUMBERS = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e9, 1e9), st.just(math.nan)), max_size=60)


def counts(known, hours=None):
    known = np.atleast_2d(np.array(known, np.int64))
    nothing = np.zeros(len(known), np.int64)
    return Counts(known=known, missing=nothing, unknown=nothing, hours=None if hours is None else np.atleast_2d(hours))


def of_numbers(values, edges):
    return count_numbers(np.array(values, float), edges, np.zeros(len(values), np.int64), 1)


@settings(max_examples=150, deadline=None)
@given(reference=NUMBERS, current=NUMBERS)
def test_the_index_of_numbers(reference, current):
    """Never negative, finite, the same both ways, 0 for the same numbers; every number is in one bin."""
    edges = equal_mass_edges(np.array(reference, float))
    feature = Feature(name="x", kind="numerical", edges=edges)
    before, after = of_numbers(reference, edges), of_numbers(current, edges)
    assert list(edges) == sorted(set(edges))
    assert int(after.n[0]) == len(current)
    assert int(after.missing[0]) == np.isnan(np.array(current, float)).sum()
    assert before.known.shape == (1, feature.bins) == (1, len(feature.labels()))
    found, back = stability(feature, before, after), stability(feature, after, before)
    if not before.known.sum() or not after.known.sum():
        assert found["psi"] is None
        assert "no known value" in found["reason"]
        return
    assert 0 <= found["psi"] < math.inf
    assert found["psi"] == pytest.approx(back["psi"])
    assert stability(feature, before, before)["psi"] == 0
    assert stability(feature, before, of_numbers([*reference] * 3, edges))["psi"] == pytest.approx(0, abs=1e-12)


def test_a_number_that_leaves_its_only_value_is_seen():
    edges = equal_mass_edges(np.full(1000, 5.0))
    feature = Feature(name="x", kind="numerical", edges=edges)
    before = of_numbers([5.0] * 1000, edges)
    for moved in (4.0, 6.0):
        assert stability(feature, before, of_numbers([moved] * 1000, edges))["psi"] > 5
    assert feature.labels() == ["below 5", "5", "5 or more"]


def test_bins_hold_equal_mass_and_ties_a_bin_of_their_own():
    values = np.concatenate([np.zeros(500), np.linspace(1, 2, 500)])
    edges = equal_mass_edges(values)
    known = of_numbers(values, edges).known[0]
    assert known[np.searchsorted(edges, 0.0, side="right")] == 500
    assert sorted(known[known > 0])[:5] == pytest.approx([100] * 5, abs=2)


def test_the_index_by_hand():
    feature = Feature(name="x", kind="categorical", values=("a", "b"))
    found = stability(feature, counts([60, 40]), counts([30, 70]))
    assert found["psi"] == pytest.approx(0.3 * math.log(2) + 0.3 * math.log(7 / 4))
    gone = stability(feature, counts([50, 50]), counts([100, 0]))
    assert gone["psi"] == pytest.approx(0.5 * math.log(2) + (0.5 - 1e-4) * math.log(0.5 / 1e-4))


def test_chance_stays_below_what_is_given_for_it():
    generator = np.random.default_rng(0)
    feature = Feature(name="x", kind="categorical", values=tuple("abcdefgh"))
    p = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    found = [
        stability(feature, counts(generator.multinomial(2000, p)), counts(generator.multinomial(500, p)))
        for _ in range(1000)
    ]
    assert sum(one["psi"] > one["by_chance"] for one in found) <= 6


def test_rare_values_are_one_bin_unless_they_have_become_common():
    values = tuple(str(at) for at in range(201))
    before = np.full(201, 5)
    before[0] = 9000
    after = np.roll(before[1:], 7)
    feature = Feature(name="x", kind="categorical", values=values)
    shuffled = stability(feature, counts(before), counts([9000, *after]))
    assert shuffled["psi"] == 0
    risen = before.copy()
    risen[200] = 1000
    assert stability(feature, counts(before), counts(risen))["psi"] > 0.2


def test_the_calendar_is_compared_by_the_hour():
    feature = Feature(name="day_of_week", kind="calendar", values=tuple("0123456"))
    week = np.full(7, 24)
    ten_days = np.array([48, 48, 48, 24, 24, 24, 24])
    before, after = counts(week * 10, week), counts(ten_days * 10, ten_days)
    assert stability(feature, before, after)["psi"] == pytest.approx(0)
    assert per_hour(before).tolist() == per_hour(after).tolist() == [10] * 7
    short = stability(feature, counts(week, week), counts([9, 9, 9, 0, 0, 0, 0], [24, 24, 24, 0, 0, 0, 0]))
    assert short["reason"] == "the window spans less than 7 days"


@settings(max_examples=60, deadline=None)
@given(
    start=st.floats(0, 4e9),
    span=st.floats(1, 60 * DAY),
    kind=st.sampled_from(["day", "week"]),
    shares=st.lists(st.floats(0, 1, exclude_max=True), max_size=20),
)
def test_windows(start, span, kind, shares):
    """They cover the range without gap or overlap, end at midnights, and hold each of its times once."""
    windows = Windows.of(start, start + span, kind)
    assert (windows.edges[0], windows.edges[-1]) == (start, start + span)
    assert (np.diff(windows.edges) > 0).all()
    assert (windows.edges[1:-1] % DAY == 0).all()
    assert (np.diff(windows.edges) <= (1 if kind == "day" else 7) * DAY).all()
    times = np.minimum(start + np.array(shares) * span, np.nextafter(start + span, 0))
    code = windows.codes(times)
    assert ((windows.edges[code] <= times) & (times < windows.edges[code + 1])).all()


def test_too_many_windows():
    with pytest.raises(ConfigError, match="at most 1,000 windows"):
        Windows.of(0, 1001 * DAY, "day")


def seen_of(times, label=None, known_at=None, score=None, start=None, end=None):
    """Payments without a store's files."""
    times = np.array(times, float)
    label = np.zeros(len(times), np.int8) if label is None else np.array(label, np.int8)
    known_at = times if known_at is None else np.array(known_at, float)
    market = SimpleNamespace(evaluation=SimpleNamespace(top_k=5), entity=SimpleNamespace(key=None))
    store = SimpleNamespace(time_seconds=times, label=label, known_at_seconds=known_at, market=market)
    score = np.zeros(len(times)) if score is None else np.array(score)
    return ScoredWindow(
        store=store,
        rows=slice(0, len(times)),
        start=times[0] if start is None else start,
        end=np.nextafter(times[-1], np.inf) if end is None else end,
        scores={"raw_score": score},
    )


def test_volume_knows_the_week():
    """Weekends have half the payments; three weekdays alone are as many as expected, and a day without any is one."""
    per_day = [10, 10, 10, 10, 10, 5, 5]
    two_weeks = [MONDAY + day * DAY + i * DAY / 10 for day in range(14) for i in range(per_day[day % 7])]
    by_weekday = count_days(seen_of(two_weeks, end=MONDAY + 14 * DAY)).by_weekday()
    assert by_weekday == per_day
    monday_to_wednesday = [time for time in two_weeks if time < MONDAY + 3 * DAY]
    some = seen_of(monday_to_wednesday, end=MONDAY + 3 * DAY)
    found = compare_volume(some, by_weekday, Windows.of(some.start, some.end, "week"))
    assert found["full_range"] == {"days": 3, "n": 30, "expected": 30, "change": 0}
    stopped = seen_of(monday_to_wednesday, end=MONDAY + 5 * DAY)
    found = compare_volume(stopped, by_weekday, Windows.of(stopped.start, stopped.end, "day"))
    assert [day["n"] for day in found["days"]] == [10, 10, 10, 0, 0]
    assert [one["change"] for one in found["windows"]] == [0, 0, 0, -1, -1]


def test_days_that_the_range_covers_in_part_are_left_out():
    times = [MONDAY + DAY / 2 + i * DAY / 10 for i in range(20)]
    days = count_days(seen_of(times))
    assert days.n.tolist() == [5, 10, 5]
    assert days.is_complete.tolist() == [False, True, False]
    found = compare_volume(seen_of(times), None, Windows.full_range(times[0], times[-1] + 1))
    assert found["full_range"]["reason"] == "the reference contains no complete day"


def measured(seen, as_of, windows=None, **settings):
    settings = {"min_frauds": 10, "replicates": 20, **settings}
    return performance(seen, windows or Windows.full_range(seen.start, seen.end), as_of=as_of, **settings)


def test_an_outcome_that_comes_later_does_not_count():
    """The second week's outcomes are in the file, but known only a week after it: changing them changes nothing."""
    times = MONDAY + np.arange(1400) * 14 * DAY / 1400
    label = (np.arange(1400) % 20 == 0).astype(np.int8)
    score = np.random.default_rng(0).random(1400)
    late = label.copy()
    late[700:] = 1 - late[700:]
    windows = Windows.of(MONDAY, MONDAY + 14 * DAY, "week")
    end = MONDAY + 14 * DAY
    found, other = (
        measured(seen_of(times, labels, times + 7 * DAY, score, end=end), end - 1, windows) for labels in (label, late)
    )
    assert found == other
    assert [one["share"] for one in found] == [1.0, 0.0]
    assert [one["reason"] for one in found if "reason" in one] == ["no outcome is known yet"]
    assert found[0]["frauds"] == 35
    assert set(found[0]["metrics"]) == {"average_precision", "roc_auc", "recall_at_fpr_0.01", "precision_at_k"}
    later = measured(seen_of(times, late, times + 7 * DAY, score, end=end), end + 7 * DAY, windows)
    assert later[1]["frauds"] == 665


@pytest.mark.parametrize(
    ("frauds", "reason"), [(0, "0 known frauds: no metrics below 10"), (1, "1 known fraud: no metrics below 10")]
)
def test_few_frauds_give_no_figure(frauds, reason):
    times = MONDAY + np.arange(100) * 60
    found = measured(seen_of(times, np.arange(100) < frauds, times, np.linspace(0, 1, 100)), times[-1])[0]
    assert found["metrics"] == {}
    assert found["reason"] == reason
