"""Scores of network and trees together: the same offline and for single payments, whatever the batch and whatever comes later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from support.easy_log import MARKET, TINY, settings
from tsa.bundle.bundle import Bundle
from tsa.data.online.histories import HistoryEvents
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.evaluation.bundle_diff import diff_bundles
from tsa.inference.score_parts import ModelParts
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import ALONE, Joining
from tsa.training import train


@pytest.fixture(scope="module")
def scorer(easy_store: EventStore, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    run = tmp_path_factory.mktemp("parts") / "run"
    bundle = train(easy_store, run, model={**TINY, "parts": "combined"}, training=settings(epochs=1))
    assert bundle.joining.parts == ("network", "trees")
    return Scorer(Bundle.open(run / "bundle"))


@pytest.fixture(scope="module")
def log(easy_log: Path) -> pl.DataFrame:
    return pl.read_parquet(easy_log).sort("time", "id")


def rows_of(log: pl.DataFrame) -> list[dict[str, Any]]:
    return log.drop("fraud").to_dicts()


def test_single_payments_score_as_in_the_log(scorer: Scorer, log: pl.DataFrame) -> None:
    offline = dict(scorer.score(log).select("id", "raw_score").iter_rows())
    for at in range(300, 900, 40):
        now = log[at]
        past = log[:at].filter(pl.col("customer") == now["customer"][0])
        events = HistoryEvents.of(scorer.reader.read_all(past.to_dicts(), outcomes=True))
        key = ("customer", str(now["customer"][0]))
        online = scorer.score(rows_of(now), histories={key: events})
        assert online["raw_score"][0] == pytest.approx(offline[now["id"][0]], rel=1e-6)


def test_later_events_and_outcomes_do_not_move_a_score_by_a_bit(scorer: Scorer, log: pl.DataFrame) -> None:
    at = 1000
    moment = log["time"][at - 1]
    scores = scorer.score(log)["raw_score"].to_numpy()
    np.testing.assert_array_equal(scorer.score(log[:at])["raw_score"].to_numpy(), scores[:at])
    delay = MARKET["label"]["delay_days"] * 86_400
    turned = log.with_columns(
        fraud=pl.when(pl.col("time") + delay > moment).then(1 - pl.col("fraud")).otherwise("fraud")
    )
    np.testing.assert_array_equal(scorer.score(turned)["raw_score"].to_numpy()[:at], scores[:at])


def test_a_score_does_not_depend_on_its_batch(scorer: Scorer, easy_store: EventStore) -> None:
    rows = np.arange(500, 700)
    together = scorer.score_rows(easy_store, rows)
    np.testing.assert_array_equal(scorer.score_rows(easy_store, rows[::-1])[::-1], together)
    alone = np.concatenate([scorer.score_rows(easy_store, rows[at : at + 1]) for at in range(0, 200, 20)])
    np.testing.assert_array_equal(alone, together[::20])


def test_a_part_that_does_not_count_is_not_computed(scorer: Scorer, easy_store: EventStore) -> None:
    def refuse(batch: object) -> Any:
        raise AssertionError("the network was asked")

    refuse.name = "none"  # type: ignore[attr-defined]
    trees = ModelParts(engine=refuse, trees=scorer.bundle.trees, joining=Joining(network=0.0, trees=1.0))
    assert trees.of_store(easy_store, np.arange(9)).shape == (9,)
    network = ModelParts(engine=scorer.engine, trees=None)
    assert network.of_store(easy_store, np.arange(9)).shape == (9,)
    with pytest.raises(ConfigError, match="must have trees"):
        ModelParts(engine=scorer.engine, joining=scorer.bundle.joining).of_store(easy_store, np.arange(9))


def test_a_difference_of_bundles_names_their_parts(scorer: Scorer) -> None:
    bundle = scorer.bundle
    alone = replace(bundle, trees=None, joining=ALONE["network"])
    found = diff_bundles(alone, bundle)
    assert found["weights"]["equal"]
    assert any(line.startswith("trees.number") for line in found["parts"])
    assert any(line.startswith("joining.trees: 0.0, ") for line in found["parts"])
