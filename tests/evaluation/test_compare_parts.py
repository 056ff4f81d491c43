"""The report says how network and trees compare with each alone, and with the baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from support.easy_log import TINY, settings
from tsa.data.store.store import EventStore
from tsa.evaluation.compare_parts import compare_parts, summary
from tsa.evaluation.evaluate import compare_run, evaluate
from tsa.evaluation.trained_run import TrainedRun, read_report
from tsa.training import train

QUICK = {"replicates": 50}


@pytest.fixture(scope="module")
def run(easy_store: EventStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parts") / "run"
    train(easy_store, out, model={**TINY, "parts": "combined"}, training=settings(epochs=1))
    return out


def test_the_report_compares_the_parts(run: Path) -> None:
    report = evaluate(run, **QUICK)
    opened = TrainedRun.open(run)
    label = opened.store.label[opened.rows]
    scores = opened.score(opened.rows, "scoring")
    alone = opened.scorer.model.log_odds_of_store(opened.store, opened.rows, ("network", "trees"))
    for name, values in {"model": scores, **alone}.items():
        measured = report["parts"]["values"][name]
        assert measured["average_precision"] == pytest.approx(average_precision_score(label, values), abs=1e-6)
        assert measured["roc_auc"] == pytest.approx(roc_auc_score(label, values), abs=1e-6)
    assert report["parts"]["form"] == "combined"
    assert report["parts"]["weights"] == opened.scorer.bundle.joining.to_dict()
    page = (run / "report.html").read_text()
    assert "network alone" in page
    assert report["parts"]["summary"].split(":")[0] in page
    compare_run(run, **QUICK)
    assert read_report(run)["parts"] == report["parts"]
    section = (run / "report.html").read_text().split('id="model-parts"')[1].split("</section>")[0]
    assert "LightGBM" in section


def test_what_evaluation_scores_is_what_the_scorer_scores(run: Path) -> None:
    opened = TrainedRun.open(run)
    np.testing.assert_array_equal(opened.score_measured("scoring"), opened.score(opened.rows, "scoring"))


def test_a_network_alone_is_not_compared_with_itself(easy_store: EventStore, tmp_path: Path) -> None:
    train(easy_store, tmp_path / "run", model={**TINY, "parts": "network"}, training=settings(epochs=1))
    opened = TrainedRun.open(tmp_path / "run")
    assert compare_parts(opened, opened.score_measured("scoring")) is None


def test_sentences() -> None:
    values = {"a": 0.8, "b": 0.7, "difference": 0.1, "low": 0.05, "high": 0.15, "verdict": "a better"}
    better, worse = {"average_precision": values}, {"average_precision": {**values, "verdict": "b better"}}
    unclear = {"average_precision": {**values, "verdict": "no clear difference"}}
    text = summary("combined", {"network": better, "trees": unclear})
    assert text.startswith("Network and trees together are better than the network alone: average precision 0.800 ")
    assert "No clear difference between network and trees together and the trees alone" in text
    assert "The trees alone are better than network and trees together" in summary(
        "combined", {"network": better, "trees": worse}
    )
    text = summary("trees", {"network": better, "trees": unclear})
    assert text.startswith("The model scores by the trees alone. It is better than the network alone: ")
    nothing = {"average_precision": {**values, "low": None, "reason": "3 frauds"}}
    assert "cannot be compared: 3 frauds." in summary("combined", {"network": nothing, "trees": nothing})
