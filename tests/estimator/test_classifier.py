"""`tsa.fit` on frames of pandas and Polars: roles, scores correct in time, scikit-learn's conventions, saving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import TimeSeriesSplit, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import tsa

N = 3_600
SMALL = {
    **{"training.epochs": 1, "training.batch_size": 64, "model.width": 16, "model.parts": "network"},
    **{"split.fractions": [0.3, 0.1, 0.5, 0.1], "history.0.length": 8},
}
COLUMNS: dict[str, Any] = {"label": "is_fraud", "time": "paid_at", "id": "payment_id", "keys": ["card", "merchant"]}


def payments(seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    fraud = rng.random(N) < 0.1
    start = datetime(2025, 3, 1)
    return pl.DataFrame(
        {
            "payment_id": [f"p{at}" for at in range(N)],
            "paid_at": [start + timedelta(minutes=31 * at) for at in range(N)],
            "card": rng.integers(1, 120, N),
            "merchant": [f"m{key}" for key in rng.integers(1, 60, N)],
            "channel": np.where(fraud & (rng.random(N) < 0.8), "web", rng.choice(["web", "shop", "phone"], N)),
            "amount": np.round(np.where(fraud, 300, 30) * rng.lognormal(0, 0.5, N), 2),
            "is_fraud": fraud.astype(np.int8),
        }
    )


FRAME = payments()
PAST, NEW = FRAME[:3200], FRAME[3200:]


def made(**other: Any) -> tsa.FraudClassifier:
    return tsa.FraudClassifier(**{**COLUMNS, "settings": SMALL, "compare": False, "progress": False, **other})


@pytest.fixture(scope="module", autouse=True)
def no_curves() -> Iterator[None]:
    """No pictures of the epochs, which take longer than the training."""
    with patch("tsa.training.finalize.draw_curves"):
        yield


@pytest.fixture(scope="module")
def model() -> tsa.FraudClassifier:
    return made().fit(PAST)


@pytest.fixture(scope="module")
def scores(model: tsa.FraudClassifier) -> pl.DataFrame:
    return model.score(NEW)


def test_three_lines() -> None:
    fitted = tsa.fit(PAST, **COLUMNS, settings=SMALL, compare=False)
    found = fitted.score(NEW)
    assert found.columns == ["id", "raw_score", "percentile", "probability"]
    assert found["id"].to_list() == NEW["payment_id"].to_list()
    assert found["raw_score"].null_count() == 0


def test_scores_are_those_of_the_log_so_far(model: tsa.FraudClassifier, scores: pl.DataFrame) -> None:
    log = model.model_.scorer.score(FRAME).filter(pl.col("id").is_in(NEW["payment_id"].implode()))
    assert_frame_equal(scores, log)


def test_order_of_rows_and_kind_of_frame_are_kept(model: tsa.FraudClassifier, scores: pl.DataFrame) -> None:
    order = np.random.default_rng(1).permutation(len(NEW))
    shuffled = NEW[order.tolist()].to_pandas().set_index(pd.Index(order, name="place"))
    found = model.score(shuffled)
    assert isinstance(found, pd.DataFrame)
    assert found.index.equals(shuffled.index)
    assert_frame_equal(pl.from_pandas(found.sort_index()), scores)
    assert model.predict_proba(shuffled).shape == (len(NEW), 2)


def test_nothing_sees_the_future(model: tsa.FraudClassifier, scores: pl.DataFrame) -> None:
    later = NEW.with_columns(
        pl.when(pl.int_range(pl.len()) >= 200).then(pl.lit(9999.0)).otherwise("amount").alias("amount")
    )
    assert_frame_equal(model.score(later)[:200], scores[:200])
    assert_frame_equal(model.score(NEW[:200]), scores[:200])


def test_outcomes_count_once_they_are_known(model: tsa.FraudClassifier, scores: pl.DataFrame) -> None:
    """Within the delay of outcomes, those of the frame change nothing."""
    known_after = timedelta(days=model.market_.label.delay_days or 0)
    early = NEW.filter(pl.col("paid_at") < NEW["paid_at"][0] + known_after)
    assert 0 < len(early) < len(NEW)
    flipped = NEW.with_columns(1 - pl.col("is_fraud"))
    assert_frame_equal(model.score(flipped)[: len(early)], scores[: len(early)])
    assert_frame_equal(model.score(early.drop("is_fraud")), scores[: len(early)])


def test_payments_of_the_fitted_frame_count_once(model: tsa.FraudClassifier, scores: pl.DataFrame) -> None:
    both = model.score(FRAME)
    assert_frame_equal(both[3200:], scores)
    assert_frame_equal(model.score(FRAME.drop("is_fraud"))[:3200], model.score(PAST))


def test_history(model: tsa.FraudClassifier, scores: pl.DataFrame) -> None:
    assert_frame_equal(model.score(NEW, history=PAST), scores)
    nothing = model.score(NEW, history=PAST[:0])
    assert not nothing.equals(scores)


def test_what_was_guessed_is_shown(model: tsa.FraudClassifier) -> None:
    roles = {row["column"]: row for row in model.roles_.to_dicts()}
    assert not roles["card"]["guessed"]
    assert roles["channel"] == {
        **{"use": "category", "column": "channel", "guessed": True},
        "evidence": "3 values, such as 'web', 'phone'",
    }


def test_all_columns_can_be_guessed() -> None:
    found = tsa.fit(FRAME.to_pandas(), settings=SMALL, compare=False, progress=False)
    assert (found.market_.event.id, found.market_.event.time) == ("payment_id", "paid_at")
    assert found.market_.label.column == "is_fraud"


def test_conventions_of_scikit_learn(model: tsa.FraudClassifier, tmp_path: Path) -> None:
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    for call in (copy.score, copy.predict_proba, copy.predict, copy.explain):
        with pytest.raises(NotFittedError):
            call(NEW)
    with pytest.raises(NotFittedError):
        copy.save(tmp_path / "model")
    chances, flagged = model.predict_proba(NEW), model.predict(NEW)
    assert np.allclose(chances.sum(axis=1), 1)
    assert set(flagged) <= set(model.classes_) == {0, 1}
    assert ((model.decision_function(NEW) >= 0) == (flagged == 1)).all()
    with pytest.raises(tsa.TSAError, match="score takes no outcomes"):
        model.score(NEW, NEW["is_fraud"])


def test_the_last_step_of_a_pipeline_in_folds_of_time() -> None:
    cents = FunctionTransformer(lambda frame: frame.assign(amount=frame["amount"].round(1)))
    steps = Pipeline([("cents", cents), ("model", made())])
    frame = FRAME.to_pandas()
    found = cross_validate(
        steps, frame, frame["is_fraud"], cv=TimeSeriesSplit(2, test_size=300), scoring=["average_precision", "roc_auc"]
    )
    assert (found["test_average_precision"] > 0.13).all()
    assert steps.fit(frame[:3200]).score(frame[3200:]).shape == (400, 4)


def test_outcomes_apart_from_the_frame() -> None:
    y = np.where(PAST["is_fraud"].to_numpy() == 1, "yes", "no")
    found = made().fit(PAST.drop("is_fraud"), y)
    assert found.classes_.tolist() == ["no", "yes"]
    assert set(found.predict(NEW)) <= {"no", "yes"}
    with pytest.raises(tsa.TSAError, match="y must have an outcome for each payment"):
        made().fit(PAST, y[:5])


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        (lambda label: label.astype(bool), [False, True]),
        (lambda label: label.astype(float).where(np.arange(len(label)) % 50 > 0), [0, 1]),
        (lambda label: label.map({0: "genuine", 1: "fraud"}).astype("category"), ["genuine", "fraud"]),
    ],
)
def test_spellings_of_outcomes(kind: Any, classes: list[Any]) -> None:
    frame = PAST.to_pandas()
    found = made().fit(frame.assign(is_fraud=kind(frame["is_fraud"])))
    assert found.classes_.tolist() == classes
    assert found.report().content["evaluation"]["frauds"] > 0


def test_a_frame_without_ids_and_with_odd_columns() -> None:
    frame = PAST.drop("payment_id").to_pandas()
    frame["tags"] = [["a"], ["b"]] * 1600
    frame["note"] = [1, "x"] * 1600
    found = tsa.fit(frame, label="is_fraud", time="paid_at", keys="card", settings=SMALL, compare=False, progress=False)
    assert found.score(frame[:7])["raw_score"].notna().all()


def test_a_time_in_the_index_and_as_numbers() -> None:
    frame = PAST.with_columns(clock=pl.col("paid_at").dt.epoch("ms")).drop("paid_at").to_pandas().set_index("clock")
    found = made(time="clock").fit(frame)
    assert found.market_.event.time_unit == "ms"
    assert found.score(frame.tail(3)).index.equals(frame.tail(3).index)


def test_a_market_instead_of_columns(tmp_path: Path, model: tsa.FraudClassifier) -> None:
    found = tsa.fit(PAST, market=model.market_, settings=SMALL, compare=False, progress=False)
    assert not found.roles_["guessed"].any()
    (tmp_path / "market.json").write_text(json.dumps(model.market_.to_dict()), encoding="utf-8")
    with pytest.raises(tsa.TSAError, match=r"market says what the columns mean.*give one of them"):
        made(market=model.market_).fit(PAST)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"time": "nothing"}, "log: has no column nothing"),
        ({"time": "channel"}, "the time column channel must hold dates with times"),
        ({"label": "amount"}, "the outcome column amount must have two values"),
        ({"id": "channel"}, "the id channel must be different in every row"),
        ({"keys": ["card", "card"]}, "a column must have one use"),
        ({"keys": [3]}, "columns must be given by their names"),
        ({"settings": {"training.epoch": 1}}, "training.epoch"),
        ({"settings": {"training.epochs": {1}}}, "settings must be numbers"),
    ],
)
def test_parameters_that_break_a_rule(change: dict[str, Any], text: str) -> None:
    with pytest.raises(tsa.TSAError, match=text):
        made(**change).fit(PAST)


def test_rows_that_break_a_rule(model: tsa.FraudClassifier, scores: pl.DataFrame, tmp_path: Path) -> None:
    bad = NEW.with_columns(amount=pl.when(pl.int_range(pl.len()) == 399).then(float("inf")).otherwise("amount"))
    with pytest.raises(tsa.TSAError, match="amount"):
        model.score(bad)
    found = model.score(bad, quarantine=tmp_path / "bad.parquet")
    assert found["raw_score"].is_null().to_list() == [False] * 399 + [True]
    assert_frame_equal(found[:399], scores[:399])
    with pytest.raises(tsa.TSAError, match="payment_id"):
        model.score(NEW.drop("payment_id"))
    with pytest.raises(tsa.TSAError, match="payments must be a data frame"):
        model.score([1, 2])
    with pytest.raises(tsa.TSAError, match="paid_at: must be a time"):
        model.score(NEW.with_columns(paid_at=pl.lit(1.5)))


def test_reasons(model: tsa.FraudClassifier) -> None:
    found = model.explain(NEW[5:7])
    assert found.columns == ["id", "raw_score", "rank", "reason", "code", "contribution"]
    assert found["id"].unique(maintain_order=True).to_list() == ["p3205", "p3206"]
    whole = model.explanations(NEW[5:7])
    assert [one.adds_up for one in whole] == [True, True]
    assert isinstance(model.explain(NEW[5:6].to_pandas()), pd.DataFrame)


def test_the_report(model: tsa.FraudClassifier, tmp_path: Path) -> None:
    report = model.report(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report.html
    assert report._repr_html_().startswith("<iframe srcdoc=")
    assert 0 < (report.metrics["average_precision"] or 0) <= 1
    assert "test payments" in str(report)
    assert json.loads(report.save(tmp_path / "report.json").read_text(encoding="utf-8"))["evaluation"]["n"] > 0
    with pytest.raises(tsa.TSAError, match="path must end in"):
        model.report(tmp_path / "report.pdf")


def test_saved_and_loaded(model: tsa.FraudClassifier, scores: pl.DataFrame, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = tsa.FraudClassifier.load(tmp_path / "model")
    assert_frame_equal(loaded.score(NEW), scores)
    assert loaded.get_params() == model.get_params()
    assert loaded.report().html == model.report().html
    assert_frame_equal(tsa.Scorer.load(tmp_path / "model" / "bundle").score(FRAME).tail(400), scores)
    model.save(tmp_path / "model", history=False)
    alone = tsa.FraudClassifier.load(tmp_path / "model")
    with pytest.raises(tsa.TSAError, match="give history="):
        alone.score(NEW)
    assert_frame_equal(alone.score(NEW, history=PAST), scores)
    (tmp_path / "model" / "bundle" / "model.json").write_text("{}", encoding="utf-8")
    with pytest.raises(tsa.TSAError, match=r"model\.json"):
        tsa.FraudClassifier.load(tmp_path / "model")
