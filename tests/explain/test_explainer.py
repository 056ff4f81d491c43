"""Explanations of payments of a store and of a log: they add up, say what is known, and are the same however asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.errors import DataError, MarketError
from tsa.explain import Explainer, Explanation, Payment, explain_log
from tsa.inference.scorer import Scorer
from tsa.model.collate import gather_batch
from tsa.model.network_and_trees import ALONE


@pytest.fixture(scope="module")
def bundle(demo_run: Path) -> Bundle:
    return Bundle.open(demo_run / "bundle")


@pytest.fixture(scope="module")
def network(bundle: Bundle) -> Bundle:
    """Its network alone, which needs nothing but a batch to be explained."""
    return replace(bundle, joining=ALONE["network"])


@pytest.fixture(scope="module")
def rows(demo_store: EventStore) -> list[int]:
    """Payments with all of their histories, and one that has none."""
    long = [index.position - index.start >= 7 for index in demo_store.histories.values()]
    first = [index.position == index.start for index in demo_store.histories.values()]
    both = np.flatnonzero(np.logical_and.reduce(long))
    return [*both[-400::150].tolist(), int(np.flatnonzero(np.logical_or.reduce(first))[0])]


@pytest.fixture(scope="module")
def explanations(bundle: Bundle, demo_store: EventStore, rows: list[int]) -> list[Explanation]:
    return list(Explainer(bundle).explain_rows(demo_store, rows))


def parts(explanation: Explanation) -> float:
    return sum(f.attribution for f in explanation.features) + sum(h.attribution for h in explanation.histories)


def test_everything_adds_up(explanations: list[Explanation]) -> None:
    for one in explanations:
        assert one.total == one.score - one.baseline
        assert abs(one.residual) <= 0.01 * abs(one.total)
        assert parts(one) == pytest.approx(one.total - one.residual, abs=1e-9)
        for history in one.histories:
            added = sum(event.attribution for event in history.events)
            added += sum(aggregate.attribution for aggregate in history.aggregates)
            assert added == pytest.approx(history.attribution, abs=1e-9)
            for event in history.events:
                told = event.presence + event.outcome_attribution
                told += sum(event.features.values()) + sum(event.keys.values())
                assert told == pytest.approx(event.attribution, abs=1e-9)


def test_scores_are_those_of_the_scorer(
    bundle: Bundle, demo_store: EventStore, rows: list[int], explanations: list[Explanation]
) -> None:
    scorer = Scorer(bundle)
    raw = scorer.score_rows(demo_store, np.array(rows))
    for name, values in scorer.with_calibration(raw).items():
        close = 1e-6 if name == "raw_score" else 1e-5  # percentiles rise more steeply
        assert [one.scores[name] for one in explanations] == pytest.approx(values.tolist(), abs=close)


def test_facts_are_those_of_the_log(
    demo_log: Path, demo_store: EventStore, rows: list[int], explanations: list[Explanation]
) -> None:
    log = {line["payment_id"]: line for line in pl.read_parquet(demo_log).iter_rows(named=True)}
    for one in explanations:
        line = log[one.id]
        assert {f.name: f.value for f in one.features}["amount"] == line["amount"]
        for history, key in zip(one.histories, ("customer_id", "terminal_id"), strict=True):
            assert all(log[event.id][key] == line[key] for event in history.events)
            assert all(event.values["amount"] == log[event.id]["amount"] for event in history.events)
            assert [e.age_seconds for e in history.events] == sorted(
                (e.age_seconds for e in history.events), reverse=True
            )
            for event in history.events:
                known = event.age_seconds >= 7 * 86_400
                expected = {0: "genuine", 1: "fraud"}[log[event.id]["is_fraud"]] if known else "not known"
                assert event.outcome == expected


def test_payments_without_earlier_ones_have_histories_that_add_nothing(explanations: list[Explanation]) -> None:
    empty = [history for history in explanations[-1].histories if not history.events]
    assert empty
    for history in empty:
        assert history.attribution == sum(aggregate.attribution for aggregate in history.aggregates), "the trees alone"


def test_gates_and_attention(explanations: list[Explanation]) -> None:
    for one in explanations:
        assert sum(history.importance or 0.0 for history in one.histories) == pytest.approx(1.0, abs=1e-5)
        for history in one.histories:
            assert 0 <= sum(event.attention for event in history.events) <= 1 + 1e-5


def test_reasons_come_strongest_first(explanations: list[Explanation]) -> None:
    for one in explanations:
        strength = [abs(reason.attribution) for reason in one.reasons]
        assert strength == sorted(strength, reverse=True)
        assert 0 < len(strength) <= 8
        assert all(reason.text and "{" not in reason.text for reason in one.reasons)


def test_the_same_again_and_with_padding(network: Bundle, demo_store: EventStore, rows: list[int]) -> None:
    explainer = Explainer(network)
    row = rows[-1]
    wide, trimmed = (gather_batch(demo_store, np.array([row]), trim=trim) for trim in (False, True))
    first, again, padded = (explainer.explain(batch).to_dict() for batch in (trimmed, trimmed, wide))
    assert first == again == padded


def test_without_raw_values_they_are_read_back(network: Bundle, demo_store: EventStore, rows: list[int]) -> None:
    explainer = Explainer(network)
    known = next(iter(explainer.explain_rows(demo_store, rows[:1])))
    bare = explainer.explain(
        gather_batch(demo_store, np.array(rows[:1])), Payment("x", float(demo_store.time_seconds[rows[0]]))
    )
    assert bare.id == "x"
    assert bare.time == known.time
    assert parts(bare) == parts(known)
    values = {feature.name: feature.value for feature in known.features}
    for feature in bare.features:
        if isinstance(values[feature.name], float):
            assert feature.value == pytest.approx(values[feature.name], rel=1e-3)
        elif feature.value != "(unknown)":
            assert feature.value == values[feature.name]
    assert [e.time for h in bare.histories for e in h.events] == [e.time for h in known.histories for e in h.events]


def test_one_payment_at_a_time(bundle: Bundle, demo_store: EventStore) -> None:
    with pytest.raises(DataError, match=r"one payment at a time can be explained [(]got a batch of 2"):
        Explainer(bundle).explain(gather_batch(demo_store, np.array([5, 6])))


def test_smaller_types_are_explained_in_float32(network: Bundle, demo_store: EventStore, rows: list[int]) -> None:
    smaller = type(network.network)(network.config).eval()
    smaller.load_state_dict(network.network.state_dict())
    small = Explainer(replace(network, network=smaller.bfloat16()))
    found = small.explain(gather_batch(demo_store, np.array(rows[:1])))
    assert abs(found.residual) <= 0.01 * abs(found.total)
    assert all(value.dtype == torch.bfloat16 for value in smaller.parameters())


def test_a_log_gives_what_the_store_gives(
    bundle: Bundle, demo_log: Path, rows: list[int], explanations: list[Explanation]
) -> None:
    ids = [one.id for one in explanations[:2]][::-1]
    found = explain_log(bundle, demo_log, ids)
    assert [one.id for one in found] == ids
    for one, other in zip(found, explanations[:2][::-1], strict=True):
        # the log's first payments' outcomes are known to both: the same numbers in the same order
        assert one.to_dict() == other.to_dict()
    assert Scorer(bundle).explain(pl.read_parquet(demo_log), ids[:1])[0].to_dict() == found[0].to_dict()


def test_ids_that_are_not_there(bundle: Bundle, demo_log: Path) -> None:
    with pytest.raises(DataError, match=r"no payment with id 'nobody' or '0' in the column payment_id"):
        explain_log(bundle, demo_log, ["nobody", 1, 0])


def test_the_command_prints_reasons_and_writes_json(
    tsa: Callable[..., Any], demo_run: Path, demo_log: Path, tmp_path: Path, explanations: list[Explanation]
) -> None:
    ids = [one.id for one in explanations[:2]]
    out = tmp_path / "reasons.json"
    wording = 'reasons.names.amount="Betrag"'
    done = tsa("explain", demo_run / "bundle", demo_log, "--id", ids[0], "--id", ids[1], "--out", out, "--set", wording)
    assert done.code == 0, done.err
    written = json.loads(out.read_text())["explanations"]
    assert [one["id"] for one in written] == ids
    assert written[0]["total"] == explanations[0].total
    texts = [reason["text"] for one in written for reason in one["reasons"]]
    assert any(text.startswith("Betrag ") for text in texts)
    flat = " ".join(done.out.split())
    assert all(text.split()[0] in flat for text in texts)
    assert "earlier payments, counts for" in flat
    assert Bundle.open(demo_run / "bundle")  # nothing was left in it


def test_the_command_refuses_ids_that_are_not_there(
    tsa: Callable[..., Any], demo_run: Path, demo_log: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(demo_run / "bundle", tmp_path / "bundle")  # its log goes beside it
    done = tsa("explain", bundle, demo_log, "--id", "nobody", "-q")
    assert done.code == 2
    assert "DataError" in done.err


def test_a_market_words_its_reasons(bundle: Bundle, demo_store: EventStore, rows: list[int]) -> None:
    texts = (
        'reasons.texts={ "value:account_age_days" = "Konto {value} Tage alt" }',
        'reasons.codes.value="R7"',
        "reasons.most=30",
    )
    worded = replace(bundle, market=bundle.market.override(texts))
    assert worded.market.fingerprint == bundle.market.fingerprint  # a store made before is still the market's
    found = next(iter(Explainer(worded).explain_rows(demo_store, rows[:1])))
    reason = next(reason for reason in found.reasons if reason.feature == "account_age_days")
    assert reason.text.startswith("Konto ")
    assert (reason.code, reason.kind) == ("R7", "value")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('reasons.texts.vlaue="x"', "must be of higher_than_usual"),
        ('reasons.texts.new_value="{ratio}"', "must use only the placeholders"),
        ('reasons.names.amuont="x"', r"reasons: must name features or histories [(]got 'amuont'"),
        ("reasons.most=0", "at least 1"),
    ],
)
def test_a_reasons_table_is_checked(bundle: Bundle, text: str, rule: str) -> None:
    with pytest.raises(MarketError, match=rule):
        bundle.market.override([text])
