"""The whole way with wire rows, by the commands: simulate, prepare, train, evaluate, compare, score; and a bad row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from support.endpoint import endpoint
from tsa.bundle.bundle import Bundle
from tsa.data.store.store import EventStore
from tsa.data.wire import WireReader
from tsa.explain import Explainer
from tsa.inference.scorer import Scorer
from tsa.integrations.sagemaker.serving import input_fn, model_fn, predict_fn
from tsa.model.network_and_trees import ALONE

MARKET = """
name = "tiny"
[event]
id = "payment_id"
time = "paid_at"
time_unit = "s"
amount = "amount"
[label]
column = "is_fraud"
delay_days = 1
[[history]]
name = "cid"
key = "customer_id"
length = 8
[[history]]
name = "ccid"
key = "card_id"
length = 6
[features]
calendar = ["hour_of_day"]
categorical = ["merchant_category", "device", "signin_hour"]
numerical = [{ name = "amount", transform = "log1p" }]
engineered = ["payments_1d"]
[split]
fractions = [0.5, 0.2, 0.1, 0.2]
[evaluation]
segments = ["merchant_category"]
[wire]
separator = ";SEP;"
missing = ["", "My Text String"]
history_field = "{history}.{feature}"
event_field = "{history}.{part}.{feature}"
numeric_categorical = ["signin_hour"]
[privacy]
pseudonymise = ["customer_id"]
secret_env = "SECRET_OF_TESTS"
retention_days = 60
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wire")
    (folder / "tiny.toml").write_text(MARKET, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path, tsa: Callable[..., Any]) -> Path:
    path = folder / "rows.tsv.gz"
    options = ("--payments", 2500, "--fraud-rate", 0.08, "--days", 60, "--seed", 3)
    made = tsa("simulate", "--market", folder / "tiny.toml", "--format", "wire", *options, "--out", path)
    assert made.code == 0, made.err
    assert "2,500 payments" in made.out
    return path


@pytest.fixture(scope="module")
def run(folder: Path, rows: Path, tsa: Callable[..., Any], small: tuple[str, ...]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_OF_TESTS", "s" * 32)
        parts = ("--set", "model.parts=combined")
        made = tsa("run", "--market", folder / "tiny.toml", *small, *parts, rows, "--out", folder / "run")
    assert made.code == 0, made.err
    assert "LightGBM" in made.out
    return folder / "run"


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_TESTS", "s" * 32)


def test_the_main_job_learns_something(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["data"]["rows_kept"] == 2500
    assert report["evaluation"]["metrics"]["roc_auc"]["value"] > 0.6
    assert report["evaluation"]["metrics"]["precision_at_k"]["value"] is not None
    assert report["comparison"]["evaluation"]["metrics"]["roc_auc"]["value"] > 0.6
    assert any(feature["name"].startswith("ccid/") for feature in report["comparison"]["features"])
    assert (run / "report.html").stat().st_size > 10_000
    store = EventStore.open(run / "store")
    assert store.columns(["customer_id"])["customer_id"].str.len_chars().unique().to_list() == [32]


def test_scores_are_those_of_the_run_and_keep_their_ids(
    run: Path, rows: Path, folder: Path, tsa: Callable[..., Any]
) -> None:
    scored = tsa("score", run / "bundle", rows, "--out", folder / "scores.parquet")
    assert scored.code == 0, scored.err
    scores = pl.read_parquet(folder / "scores.parquet")
    tested = pl.read_parquet(run / "scores.parquet").join(scores, on="id", suffix="_again")
    assert len(scores) == 2500
    assert scores["id"].str.starts_with("p").all()
    assert len(tested) > 300
    assert (tested["raw_score"] == tested["raw_score_again"]).all()


def last_rows(rows: Path, n: int) -> list[dict[str, Any]]:
    frame = pl.read_csv(rows, separator="\t", infer_schema=False).fill_null("")
    return list(frame.rename(lambda name: name.replace("__DOT__", "."))[-n:].iter_rows(named=True))


def test_a_request_gives_the_score_of_the_file(run: Path, rows: Path) -> None:
    """With network and trees, and from each of them: as rows in Python, `/invocations`, and the SageMaker functions."""
    scorer = Scorer(Bundle.open(run / "bundle"))
    assert scorer.bundle.joining.parts == ("network", "trees")
    some = last_rows(rows, 80)
    ids = [row["payment_id"] for row in some]
    expected = pl.DataFrame({"id": ids}).join(scorer.score(rows), on="id", how="left")["raw_score"].to_list()
    assert scorer.score(some)["raw_score"].to_list() == pytest.approx(expected, abs=1e-6)
    singles = [scorer.score([row])["raw_score"][0] for row in some[:20]]
    assert singles == pytest.approx(expected[:20], abs=1e-6)
    for part in ("network", "trees"):
        alone = Scorer(replace(scorer.bundle, joining=ALONE[part]))
        of_file = pl.DataFrame({"id": ids}).join(alone.score(rows), on="id", how="left")["raw_score"].to_list()
        assert alone.score(some)["raw_score"].to_list() == pytest.approx(of_file, abs=1e-6)
        assert np.abs(np.subtract(of_file, expected)).max() > 0.001
    body, kind = json.dumps(some).encode(), "application/json"
    predicted = predict_fn(input_fn(body, kind), model_fn(str(run / "bundle")))
    assert [one["raw_score"] for one in predicted.documents] == pytest.approx(expected, abs=1e-6)
    with endpoint(run / "bundle", history=None) as client:
        answer = client.post("/invocations", content=body, headers={"content-type": kind})
    assert answer.status_code == 200, answer.text
    assert [one["raw_score"] for one in answer.json()["predictions"]] == pytest.approx(expected, abs=1e-6)


def test_its_explanation_adds_up_and_names_no_scaled_number(run: Path, rows: Path) -> None:
    bundle, some = Bundle.open(run / "bundle"), last_rows(rows, 3)
    scorer = Scorer(bundle)
    of_file = scorer.explain(rows, [row["payment_id"] for row in some])
    reader = WireReader(bundle.market, bundle.encoder)
    for row, one in zip(some, of_file, strict=True):
        found = Explainer(bundle).explain_request(reader.read([row]))
        assert one.adds_up
        assert found.score == pytest.approx(one.score, abs=1e-4)
        assert one.scores["raw_score"] == pytest.approx(scorer.score([row])["raw_score"][0], abs=1e-6)
        texts = [share.text for history in one.histories for share in history.aggregates if share.kind == "number"]
        assert texts
        assert not any(re.search("average|adds up|highest", text) for text in texts)


def test_a_bad_row_does_not_cost_the_others_in_python(run: Path, rows: Path) -> None:
    scorer = Scorer(Bundle.open(run / "bundle"))
    frame = pl.read_csv(rows, separator="\t", infer_schema=False).fill_null("")
    good = list(frame.rename(lambda name: name.replace("__DOT__", "."))[-5:].iter_rows(named=True))
    expected = scorer.score(good)
    time_name = scorer.bundle.market.event.time
    late = {**good[0], time_name: "never"}
    mixed = [late, good[0], {}, good[1], good[2], {**good[3], time_name: "\ud800"}, good[3], good[4]]
    found = scorer.score(mixed, on_error="null")
    places = [1, 3, 4, 6, 7]
    assert found["id"].gather(places).to_list() == expected["id"].to_list()
    assert found["raw_score"].gather(places).to_list() == pytest.approx(expected["raw_score"].to_list(), abs=1e-6)
    assert found["error"].is_null().to_list() == [at in places for at in range(len(mixed))]
    assert found["raw_score"].is_null().to_list() == [at not in places for at in range(len(mixed))]
    assert time_name in found["error"][0]


def test_each_command_by_itself(folder: Path, rows: Path, tsa: Callable[..., Any], small: tuple[str, ...]) -> None:
    steps = [
        ("prepare", "--market", folder / "tiny.toml", rows, "--out", folder / "store"),
        ("train", folder / "store", *small, "--out", folder / "own"),
        ("evaluate", folder / "own"),
        ("compare", folder / "own"),
    ]
    for step in steps:
        done = tsa(*step)
        assert done.code == 0, (step[0], done.err)


def test_a_bad_row_is_refused_or_set_aside(run: Path, rows: Path, folder: Path, tsa: Callable[..., Any]) -> None:
    frame = pl.read_csv(rows, separator="\t", infer_schema=False)
    bad = frame[-5:].with_columns(
        pl.when(pl.int_range(pl.len()) == 2).then(pl.lit("12,5")).otherwise("amount").alias("amount")
    )
    bad.write_csv(folder / "bad.tsv", separator="\t")
    refused = tsa("score", run / "bundle", folder / "bad.tsv", "--out", folder / "few.csv")
    assert refused.code == 2
    assert "not_a_number:amount: must be a finite number: 1 rows" in refused.err
    assert not (folder / "few.csv").exists()
    aside = ("--quarantine", folder / "aside.parquet", "--quarantine-limit", 0.2)
    scored = tsa("score", run / "bundle", folder / "bad.tsv", "--out", folder / "few.csv", *aside)
    assert scored.code == 0, scored.err
    assert len(pl.read_csv(folder / "few.csv")) == 4
    assert f"break a rule and go to {folder / 'aside.parquet'}" in scored.err
    assert pl.read_parquet(folder / "aside.parquet")["amount"].to_list() == ["12,5"]


def test_without_the_secret_the_command_says_so(
    folder: Path, rows: Path, tsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_OF_TESTS")
    done = tsa("prepare", "--market", folder / "tiny.toml", rows, "--out", folder / "none")
    assert done.code == 2
    assert "SECRET_OF_TESTS must hold the secret" in done.err


@pytest.mark.parametrize("options", [("--format", "wire"), ("--market", "tiny.toml"), ("--set", "name=x")])
def test_simulate_takes_a_market_for_wire_rows_alone(
    options: tuple[str, ...], folder: Path, tsa: Callable[..., Any]
) -> None:
    options = tuple(str(folder / text) if text == "tiny.toml" else text for text in options)
    done = tsa("simulate", *options, "--out", folder / "none.tsv")
    assert done.code == 2
    assert "--format wire" in done.err
