"""A log of decisions of 300 payments, each answered with its history and the outcomes known by then; with pseudonyms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.endpoint import settings_of
from support.history_case import MARKET, Case, Row, in_time, make_case, random_rows, request
from tsa.inference.scorer import Scorer
from tsa.serving.decisions.parquet_files import convert_abandoned
from tsa.serving.history.factory import open_history
from tsa.serving.history.metadata import pseudonymised
from tsa.serving.metrics import Metrics
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.bundle_watch import version_of
from tsa.serving.scoring.decision_recorder import DecisionRecorder
from tsa.serving.scoring.scoring_service import ScoringService

SECRET = "a secret of more than thirty-two bytes"
HIDDEN: dict[str, Any] = {
    **MARKET,
    "privacy": {"pseudonymise": ["id", "card"], "secret_env": "DECISION_SECRET", "retention_days": 20_000},
}


@dataclass(frozen=True)
class Logged:
    case: Case
    rows: Sequence[Row]
    folder: Path
    store: str
    scores: dict[str, float]


def answer_all(case: Case, rows: Sequence[Row], folder: Path, store: str) -> dict[str, float]:
    settings = settings_of(case.path, decision_log=folder / "log")
    scorer, scores = Scorer.load(case.path), {}
    recorder = DecisionRecorder(settings, Metrics(scorer.bundle.market), scorer)
    with open_history(store) as histories:
        service = ScoringService(scorer, histories, version=version_of(scorer), with_details=True)
        for row, reported in in_time(rows):
            for earlier in reported:
                known = earlier["id"], bool(earlier["fraud"]), earlier["reported"]
                assert service.record_outcome(*known)
                recorded = pseudonymised(scorer.bundle.market, "id", earlier["id"])
                recorder.outcome(recorded, *known[1:], by="a test")
            (answer,) = recorder.record(service.score([request(row)]))
            assert isinstance(answer, ScoreResult)
            assert answer.raw_score is not None
            scores[row["id"]] = answer.raw_score
    recorder.close()
    return scores


@pytest.fixture(scope="package")
def secret() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DECISION_SECRET", SECRET)
        yield SECRET


@pytest.fixture(scope="package")
def hidden_case(tmp_path_factory: pytest.TempPathFactory, secret: str) -> Case:
    return make_case(tmp_path_factory.mktemp("hidden"), HIDDEN, rows=random_rows(900, seed=7))


@pytest.fixture(scope="package")
def logged(hidden_case: Case, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    folder = tmp_path_factory.mktemp("logged")
    rows, store = random_rows(300, seed=2, cards=12, shops=4), f"sqlite:///{folder}/h.db"
    scores = answer_all(hidden_case, rows, folder, store)
    convert_abandoned(folder / "log")
    return Logged(hidden_case, rows, folder / "log", store, scores)
