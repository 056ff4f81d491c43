"""When the folds of a backtest begin, and which payments each may learn from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from support.easy_log import MARKET
from tsa.backtest.plan import BacktestSchedule, Fold, completed, plan_folds
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError

DAY = 86_400.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def days(fold: Fold) -> dict[str, tuple[str, str]]:
    """The ranges of a fold as dates."""
    return {
        name: tuple(datetime.fromtimestamp(edge, UTC).strftime("%m-%d %H") for edge in edges)
        for name, edges in fold.ranges.items()
    }


def test_folds_follow_each_other_with_the_label_delay_between(easy_store: EventStore) -> None:
    """The log spans 16 days from 7 May 2018 on, and outcomes are known a day later."""
    folds = plan_folds(easy_store, BacktestSchedule(start=at("2018-05-17"), every=2 * DAY, test=2 * DAY))
    assert [fold.name for fold in folds] == ["2018-05-17", "2018-05-19", "2018-05-21"]
    for fold in folds:
        assert fold.ranges["test"] == (fold.now, fold.now + 2 * DAY)
        assert fold.ranges["calibration"][1] == fold.now - DAY
        assert fold.ranges["train"][0] == at("2018-05-07")
    # ten, two and one day in the market's split
    assert days(folds[2]) == {
        "train": ("05-07 00", "05-17 00"),
        "validation": ("05-17 00", "05-19 00"),
        "calibration": ("05-19 00", "05-20 00"),
        "test": ("05-21 00", "05-23 00"),
    }


def test_a_window_moves_along(easy_store: EventStore) -> None:
    schedule = BacktestSchedule(
        start=at("2018-05-17"), every=2 * DAY, test=DAY, window=6 * DAY, validation=2 * DAY, calibration=DAY
    )
    folds = plan_folds(easy_store, schedule)
    assert [days(fold)["train"] for fold in folds][:2] == [("05-10 00", "05-13 00"), ("05-12 00", "05-15 00")]
    assert days(folds[0])["validation"] == ("05-13 00", "05-15 00")


def test_only_test_ranges_that_the_log_covers(easy_store: EventStore) -> None:
    with pytest.raises(ConfigError, match="a test range must end within the log"):
        plan_folds(easy_store, BacktestSchedule(start=at("2018-05-17"), test=7 * DAY))
    assert len(plan_folds(easy_store, BacktestSchedule(start=at("2018-05-16"), test=7 * DAY))) == 1
    folds = plan_folds(easy_store, BacktestSchedule(start=at("2018-05-17"), end=at("2018-05-20"), every=DAY, test=DAY))
    assert [fold.name for fold in folds] == ["2018-05-17", "2018-05-18", "2018-05-19"]


def test_it_begins_with_the_test_range_unless_said(easy_store: EventStore) -> None:
    assert plan_folds(easy_store, BacktestSchedule(test=2 * DAY))[0].name == "2018-05-21"


def test_hours(easy_store: EventStore) -> None:
    folds = plan_folds(easy_store, BacktestSchedule(start=at("2018-05-22T06:00"), every=DAY / 4, test=DAY / 4))
    assert [fold.name for fold in folds] == ["2018-05-22T06-00-00", "2018-05-22T12-00-00", "2018-05-22T18-00-00"]


def test_too_early_and_too_many(easy_store: EventStore) -> None:
    with pytest.raises(DataError, match="must have payments whose outcome is known by then"):
        plan_folds(easy_store, BacktestSchedule(start=at("2018-05-08"), test=DAY))
    with pytest.raises(ConfigError, match="at most 1000 folds"):
        plan_folds(easy_store, BacktestSchedule(start=at("2018-05-17"), every=60.0, test=60.0))
    with pytest.raises(ConfigError, match="must be longer than validation and calibration"):
        plan_folds(
            easy_store, BacktestSchedule(start=at("2018-05-17"), test=DAY, validation=8 * DAY, calibration=8 * DAY)
        )


def test_a_split_by_rows_divides_the_payments_of_each_window(easy_log: Path, tmp_path: Path) -> None:
    market = {**MARKET, "split": {"fractions": [0.5, 0.2, 0.1, 0.2], "by": "rows"}}
    store = prepare(Market.from_dict(market), [str(easy_log)], tmp_path / "store")
    fold = plan_folds(store, BacktestSchedule(start=at("2018-05-17"), test=2 * DAY))[0]
    times = np.asarray(store.time_seconds)
    counts = [int(((times >= first) & (times < last)).sum()) for first, last in fold.ranges.values()]
    assert counts[:3] == pytest.approx([900 * share / 0.8 for share in (0.5, 0.2, 0.1)], abs=1)


def test_a_log_is_divided_as_its_market_says(easy_store: EventStore, easy_log: Path, tmp_path: Path) -> None:
    """Although the store that is prepared for it has other ranges."""
    market = Market.from_dict(MARKET)
    other = prepare(market.override(["split.fractions=[0.4, 0.2, 0.2, 0.2]"]), [str(easy_log)], tmp_path / "store")
    schedule = BacktestSchedule(every=DAY, test=DAY)
    assert plan_folds(other, completed(market, schedule)) == plan_folds(easy_store, schedule)
