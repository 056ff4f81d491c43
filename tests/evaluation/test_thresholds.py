"""Thresholds: against a plain simulation of a team's days, and the page that shows them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.bundle.bundle import Bundle
from tsa.errors import ConfigError, DataError
from tsa.evaluation.blocked_keys import count_keys
from tsa.evaluation.daily_queue import Costs
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.evaluation.report.report import page, to_plain
from tsa.evaluation.report.thresholds import plain, view
from tsa.evaluation.review_and_decline import choose_review_and_decline
from tsa.evaluation.thresholds import choose_thresholds

DAY = 86_400


def made(n=4000, days=10, seed=0, with_amount=True):
    generator = np.random.default_rng(seed)
    score = 1 / (1 + np.exp(4 - 2 * generator.normal(size=n)))
    amount = generator.lognormal(4, 1, n)
    amount[::50], amount[1::50] = np.nan, -5.0
    return ScoredPayments(
        label=(generator.random(n) < score).astype(np.int8),
        score=score,
        time_seconds=1.7e9 - 1.7e9 % DAY + np.sort(generator.random(n)) * days * DAY,
        amount=amount if with_amount else None,
    )


def by_hand(payments, threshold, costs, rank=None):
    """A team's days, one payment after the other."""
    rank = payments.score if rank is None else rank
    reviewed, caught, saved = 0, 0, 0.0
    for day in np.unique(payments.time_seconds // DAY):
        rows = np.flatnonzero((payments.time_seconds // DAY == day) & (rank >= threshold))
        rows = sorted(rows, key=lambda row: (-rank[row], payments.time_seconds[row]))[: costs.capacity]
        for row in rows:
            reviewed += 1
            if payments.label[row]:
                caught += 1
                loss = costs.fraud if costs.fraud is not None else max(np.nan_to_num(payments.amount[row]), 0.0)
                saved += costs.recovered * loss
    return reviewed, caught, saved


@pytest.mark.parametrize(
    "costs",
    [
        Costs(review=5.0),
        Costs(review=5.0, capacity=20),
        Costs(review=2.0, capacity=7, fraud=90.0),
        Costs(review=1.0, capacity=20, recovered=0.4),
    ],
)
def test_rows_are_what_a_team_would_have_done(costs):
    payments = made()
    found = choose_thresholds(payments, costs)
    assert len(found["rows"]) >= 5
    for row in found["rows"]:
        reviewed, caught, saved = by_hand(payments, row["threshold"], costs)
        assert (row["reviewed"], row["caught"]) == (reviewed, caught)
        assert row["saved"] == pytest.approx(saved)
        assert row["net"] == pytest.approx(saved - reviewed * costs.review)
        flagged = payments.score >= row["threshold"]
        per_day = np.unique(payments.time_seconds[flagged] // DAY, return_counts=True)[1]
        assert (row["flagged"], row["busiest_day"]) == (flagged.sum(), per_day.max())
        assert row["days_over_capacity"] == (0 if costs.capacity is None else (per_day > costs.capacity).sum())
        assert row["recall"] == caught / payments.label.sum()


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=25
    ),
    capacity=st.one_of(st.none(), st.integers(1, 4)),
    review=st.integers(0, 4),
)
def test_the_best_threshold_is_the_best_of_all(rows, capacity, review):
    score, label, day, amount = (np.array(column, float) for column in zip(*rows, strict=True))
    times = day * DAY + np.arange(len(rows))
    payments = ScoredPayments(label=label.astype(np.int8), score=score, time_seconds=times, amount=amount)
    costs = Costs(review=review, capacity=capacity)
    found = choose_thresholds(payments, costs, replicates=0)
    nets = []
    for threshold in np.unique(score):
        reviewed, _, saved = by_hand(payments, threshold, costs)
        nets.append(saved - reviewed * review)
    if max(nets) <= 0:
        assert found["best"] is None
    else:
        assert found["best"]["net"] == pytest.approx(max(nets))
        assert found["best"] in [{**row, "net_low": None, "net_high": None} for row in found["rows"]]


def test_ties_are_flagged_together():
    payments = ScoredPayments(
        label=np.array([1, 0, 1, 0], np.int8),
        score=np.array([0.5, 0.5, 0.5, 0.1]),
        time_seconds=np.arange(4.0),
        amount=np.full(4, 10.0),
    )
    found = choose_thresholds(payments, Costs(review=1.0))
    assert {row["flagged"] for row in found["rows"]} <= {3, 4}
    assert found["best"]["reviewed"] == 3
    first = choose_thresholds(payments, Costs(review=1.0, capacity=1))["best"]
    assert (first["reviewed"], first["caught"]) == (1, 1), "of equal ones the earlier is looked into first"


def test_by_expected_loss():
    payments, costs = made(), Costs(review=5.0, capacity=15)
    worth = payments.score * np.fmax(np.nan_to_num(payments.amount), 0)
    reviewed, caught, saved = by_hand(payments, np.nextafter(5.0, 6), costs, rank=worth)
    found = choose_thresholds(payments, costs, probability=payments.score)
    rule = found["by_expected_loss"]
    assert (rule["reviewed"], rule["caught"]) == (reviewed, caught)
    assert rule["net"] == pytest.approx(saved - 5.0 * reviewed)
    assert rule["net"] > found["best"]["net"], "with true probabilities money is a better guide than risk"
    assert choose_thresholds(payments, costs)["by_expected_loss"] is None


def test_losses_that_are_not_known():
    payments = made(with_amount=False)
    found = choose_thresholds(payments, Costs(review=5.0, capacity=20))
    assert found["best"]["flagged"] == pytest.approx(20 * 10, abs=1)
    assert (found["best"]["net"], found["fraud_value"], found["by_expected_loss"]) == (None, None, None)
    assert "not known without amounts" in plain(found)
    with pytest.raises(ConfigError, match="needs amounts, a cost of a missed fraud, or a review capacity"):
        choose_thresholds(payments, Costs(review=5.0))


def test_the_interval_of_the_net():
    payments, costs = made(), Costs(review=5.0, capacity=20)
    best = choose_thresholds(payments, costs, replicates=500)["best"]
    assert best["net_low"] < best["net"] < best["net_high"]
    few = made(300)
    assert choose_thresholds(few, Costs(review=60.0, capacity=1))["best"]["net_low"] is None


def days_by_hand(payments, review, decline, capacity):
    """A team's days in which caught customers are blocked from the next day on, one payment after the other."""
    blocked, frauds, prevented, alarms = set(), 0, 0, []
    for day in np.unique(payments.time_seconds // DAY):
        rows = np.flatnonzero(payments.time_seconds // DAY == day)
        live = [row for row in rows if payments.entity[row] not in blocked]
        prevented += sum(payments.label[row] for row in rows if payments.entity[row] in blocked)
        declined = [row for row in live if decline is not None and payments.score[row] >= decline]
        flagged = [row for row in live if row not in declined and payments.score[row] >= review]
        reviewed = sorted(flagged, key=lambda row: (-payments.score[row], payments.time_seconds[row]))[:capacity]
        frauds += sum(payments.label[row] for row in declined + reviewed)
        alarms += [payments.entity[row] for row in declined + reviewed if not payments.label[row]]
        blocked |= {payments.entity[row] for row in declined + reviewed if payments.label[row]} - {-1}
    return len(blocked), frauds, prevented, len(alarms), len(set(alarms) - {-1})


@pytest.mark.parametrize(("decline", "capacity"), [(None, None), (None, 8), (0.6, 8)])
def test_customers_are_blocked_after_their_first_catch(decline, capacity):
    payments = made(800)
    entity = np.random.default_rng(3).integers(-1, 60, len(payments))
    counted = count_keys(replace(payments, entity=entity), review=0.1, decline=decline, capacity=capacity)
    by_name = [counted[name] for name in ("keys_caught", "frauds_caught", "frauds_prevented", "false_alarms")]
    expected = days_by_hand(replace(payments, entity=entity), 0.1, decline, capacity)
    assert (*by_name, counted["keys_with_false_alarm"]) == expected
    assert counted["keys"] == len(set(entity) - {-1})
    assert counted["false_alarms_per_key"] == counted["false_alarms"] / counted["keys"]
    assert counted["frauds_prevented"] > 0
    with pytest.raises(DataError, match="needs an entity"):
        count_keys(payments, review=0.1)


@pytest.mark.parametrize("capacity", [None, 3])
def test_review_and_decline_are_the_best_pair_of_all(capacity):
    payments = made(60, days=4, seed=5)
    costs = Costs(review=5.0, capacity=capacity, recovered=0.7, false_decline=40.0)
    chosen = choose_review_and_decline(payments, costs)
    limits = [*np.unique(payments.score), np.inf]
    nets = []
    loss = np.fmax(np.nan_to_num(payments.amount), 0)
    for decline in limits:
        stopped = payments.score >= decline
        own = np.where(payments.label == 1, loss, -40.0)[stopped].sum()
        rest = ScoredPayments(
            label=payments.label[~stopped],
            score=payments.score[~stopped],
            time_seconds=payments.time_seconds[~stopped],
            amount=payments.amount[~stopped],
        )
        for review in limits:
            reviewed, _, saved = by_hand(rest, review, costs)
            nets.append(own + saved - 5.0 * reviewed)
    assert chosen["net"] == pytest.approx(max(nets))
    assert chosen["decline"] > chosen["review"]
    assert chosen["saved"] - chosen["cost"] == pytest.approx(chosen["net"])
    with pytest.raises(ConfigError, match="needs the cost of declining"):
        choose_review_and_decline(payments, Costs(review=5.0))
    with pytest.raises(ConfigError, match="needs amounts or a cost"):
        choose_review_and_decline(made(50, with_amount=False), costs)


def test_where_nothing_pays():
    payments = made()
    found = choose_thresholds(payments, Costs(review=1e6))
    assert found["best"] is None
    assert "review nothing" in plain(found)
    empty = ScoredPayments(label=np.zeros(0, np.int8), score=np.zeros(0), time_seconds=np.zeros(0), amount=np.zeros(0))
    assert choose_thresholds(empty, Costs(review=1.0))["rows"] == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"review": -1.0}, r"cost of a review must be 0 or more [(]got -1.0"),
        ({"review": float("nan")}, "cost of a review"),
        ({"review": 1.0, "fraud": -2.0}, "cost of a fraud"),
        ({"review": 1.0, "capacity": 0}, r"at least 1 per day [(]got 0"),
        ({"review": 1.0, "recovered": 1.5}, r"must lie in \(0, 1\]"),
    ],
)
def test_costs_are_checked(settings, text):
    with pytest.raises(ConfigError, match=text):
        Costs(**settings)


@pytest.mark.parametrize("costs", [Costs(review=5.0, capacity=20), Costs(review=1e6), Costs(review=5.0)])
@pytest.mark.parametrize("with_amount", [True, False])
def test_the_page(costs, with_amount):
    payments = made(with_amount=with_amount)
    if costs.capacity is None and not with_amount:
        return
    hostile = "<script>alert(1)</script>"
    found = choose_thresholds(payments, costs, probability=payments.score)
    found |= {"market": hostile, "amount_column": hostile if with_amount else None, "summary": plain(found)}
    made_page = page("thresholds.html", view(to_plain(found)))
    root = ET.fromstring(made_page.replace("<!DOCTYPE html>", "", 1))
    assert "<script" not in made_page
    assert "://" not in made_page
    assert "nan" not in made_page.lower().replace("finance", "")
    assert "None" not in made_page
    assert len([svg for svg in root.iter("svg") if svg.get("class") == "chart"]) == (2 if with_amount else 1)
    assert len(list(root.iter("tr"))) == len(found["rows"]) + 1


def test_the_command(tsa, own_run):
    made = tsa("thresholds", own_run, "--review-capacity", 20, "--cost-review", 5)
    assert made.code == 0, made.err
    found = json.loads((own_run / "thresholds.json").read_text())
    assert found["summary"] in made.out
    assert f"page: {own_run / 'thresholds.html'}" in made.out
    scores = pl.read_parquet(own_run / "scores.parquet")
    assert (found["n"], found["frauds"]) == (len(scores), scores["label"].sum())
    best = found["best"]
    flagged = scores.filter(pl.col("raw_score").cast(pl.Float64) >= best["threshold"])
    assert best["flagged"] == len(flagged)
    assert " *" in made.out, "the best is marked"
    assert (own_run / "thresholds.html").read_text().count("best</span>") == 1
    both = ("--cost-false-decline", 3, "--save")
    fixed = tsa("thresholds", own_run, "--cost-fraud", 100, "--recovered", 0.5, "-q", *both)
    assert (fixed.code, fixed.err) == (0, "")
    content = json.loads((own_run / "thresholds.json").read_text())
    assert content["costs"]["fraud"] == 100
    policy = {name: content["policy"][name] for name in ("review", "decline") if content["policy"][name] is not None}
    saved = Bundle.open(own_run / "bundle").thresholds
    assert {one.name: one.at_least for one in saved.decisions} == policy
    assert "decline" in policy
    words = " ".join(fixed.out.split())
    assert content["policy_summary"] in words
    assert content["keys_summary"] in words
    assert content["keys_summary"].startswith("By customer: ")
    assert "False alarms per" in (own_run / "thresholds.html").read_text()
    assert len(tsa("thresholds", "--help").out.split()) > 40


def test_the_command_refuses(tsa, own_run):
    for arguments, text in (
        (["--amount-column", "nowhere"], "must be one that the market declares"),
        (["--amount-column", "country"], "must hold numbers (got 'country' of type String)"),
        (["--cost-review", "-3"], "cost of a review must be 0 or more"),
        (["--review-capacity", "0"], "at least 1 per day"),
    ):
        made = tsa("thresholds", own_run, *arguments)
        assert (made.code, made.out) == (2, "")
        assert text in made.err
    assert not (own_run / "thresholds.json").exists()
    (own_run / "scores.parquet").unlink()
    assert "tsa evaluate" in tsa("thresholds", own_run).err
    (own_run / "report.json").unlink()
    assert "must be evaluated first" in tsa("thresholds", own_run).err


def test_fewer_than_no_replicates_are_refused():
    with pytest.raises(ConfigError, match=r"replicates must be at least 0 [(]got replicates=-3"):
        choose_thresholds(made(), Costs(review=5.0), replicates=-3)


def test_no_figure_of_the_table_is_cut(tsa, own_run):
    done = tsa("thresholds", own_run, "--cost-review", "1e9")
    assert done.code == 0
    assert "…" not in done.out
    assert 'class="verdict unclear"' in (own_run / "thresholds.html").read_text()


@pytest.mark.parametrize("sign", [-1.0, 0.0])
@pytest.mark.parametrize("capacity", [None, 5])
def test_amounts_that_are_no_loss_are_told_of(sign, capacity):
    """Bank exports write debits below 0: then no review pays, and the reason is the sign."""
    payments = made()
    payments = replace(payments, amount=sign * np.abs(payments.amount))
    found = choose_thresholds(payments, Costs(review=5.0, capacity=capacity), replicates=0)
    assert found["frauds_with_amount"] == 0
    assert "No fraud of the test range has an amount above 0 (column debit)" in plain(
        {**found, "amount_column": "debit"}
    )
    assert view({"market": "m", "amount_column": "debit", **found})["result"]["frauds"] > 0
    fixed = choose_thresholds(payments, Costs(review=5.0, fraud=100.0), replicates=0)
    assert fixed["frauds_with_amount"] is None
    assert "amount above 0" not in plain(fixed)
    assert "amount above 0" not in plain(choose_thresholds(made(), Costs(review=5.0), replicates=0))
