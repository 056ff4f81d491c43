"""Requests to the legacy system's own handlers, with their answers: where the folder of these stands beside the repository.

Each case is scored alone by the SageMaker functions, and all of them by the endpoint and as files; what the handlers refused,
failed on, or had no number for is refused here.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from support.endpoint import endpoint
from tsa.config.market import Market
from tsa.data.log.quarantine import Quarantine
from tsa.errors import ConfigError
from tsa.inference.scorer import Scorer
from tsa.integrations.sagemaker.serving import input_fn, model_fn, output_fn, predict_fn
from tsa.legacy.importer import import_legacy
from tsa.serving.problems import ProblemError

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
MARKETS = ("eu", "na")
JSON = "application/json"
pytestmark = pytest.mark.skipif(
    not all((GOLDEN / f"legacy_{name}").is_dir() for name in MARKETS), reason="the legacy system's folders are not here"
)


@pytest.fixture(scope="module", params=MARKETS)
def bundle_and_cases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Any]]:
    folder, bundle = GOLDEN / f"legacy_{request.param}", tmp_path_factory.mktemp(request.param) / "bundle"
    import_legacy(folder, Market.from_dict(tomllib.loads((folder / "market.toml").read_text()))).save(bundle)
    with gzip.open(folder / "cases.jsonl.gz", "rt", encoding="utf-8") as file:
        return bundle, [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def imported(bundle_and_cases: tuple[Path, list[Any]]) -> tuple[Scorer, list[Any]]:
    bundle, cases = bundle_and_cases
    return Scorer.load(bundle), cases


def expected(case: Any) -> tuple[float, float] | None:
    """The raw score and the percentile; None where the handler gave none."""
    answer = case["expected"]
    raw = answer.get("raw")
    if raw is None or not math.isfinite(raw) or raw < 0:
        return None
    return raw, float(answer["score-percentile"])


def differences(cases: list[Any], found: list[tuple[float, float] | None]) -> list[Any]:
    wrong = []
    for case, got in zip(cases, found, strict=True):
        wanted = expected(case)
        if (got is None) != (wanted is None) or (
            got and wanted and (abs(got[0] - wanted[0]) > 1e-5 or abs(got[1] - wanted[1]) > 0.001 + 1e-9)
        ):
            wrong.append((case["kind"], got, wanted))
    return wrong


def in_legacy_words(answer: dict[str, Any]) -> tuple[float, float] | None:
    return None if "problem" in answer else (float(answer["legacy-score"]), float(answer["score-percentile"]))


def in_own_words(answer: dict[str, Any]) -> tuple[float, float] | None:
    return None if "problem" in answer else (answer["raw_score"], answer["percentile"])


def test_single_requests_get_the_originals_scores(bundle_and_cases: tuple[Path, list[Any]]) -> None:
    bundle, cases = bundle_and_cases
    model, found = model_fn(str(bundle)), list[tuple[float, float] | None]()
    for case in cases:
        try:
            answered, _ = output_fn(predict_fn(input_fn(json.dumps(case["row"]), JSON), model), JSON)
            found.append(in_legacy_words(json.loads(answered)["predictions"][0]))
        except ProblemError:
            found.append(None)
    assert differences(cases, found) == []
    assert sum(expected(case) is not None for case in cases) > 80


@pytest.mark.skipif(not os.environ.get("TSA_LONG"), reason="TSA_LONG=1 also asks a server for each case, twice")
def test_the_endpoint_gives_the_originals_scores(bundle_and_cases: tuple[Path, list[Any]]) -> None:
    bundle, cases = bundle_and_cases
    body = json.dumps([case["row"] for case in cases])
    with endpoint(bundle, max_bytes=2 * len(body), max_list=len(cases)) as client:
        own = client.post("/v1/score", content=body, headers={"content-type": JSON}, timeout=60).json()
        legacy = client.post("/invocations", content=body, headers={"content-type": JSON}, timeout=60).json()
    assert differences(cases, list(map(in_own_words, own))) == []
    assert differences(cases, list(map(in_legacy_words, legacy["predictions"]))) == []


@pytest.mark.parametrize("form", ["jsonl", "tsv"])
def test_files_get_the_originals_scores(imported: tuple[Scorer, list[Any]], tmp_path: Path, form: str) -> None:
    """In a table all is text and every field is there: cases that hold something else are left out."""
    if form == "jsonl" and not os.environ.get("TSA_LONG"):
        pytest.skip("TSA_LONG=1 also scores the files of JSON lines")
    scorer, cases = imported
    names = list(cases[0]["row"])
    rows = [case for case in cases if isinstance(case["row"], dict) and case["row"]]
    if form == "tsv":
        rows = [
            case
            for case in rows
            if all(isinstance(case["row"].get(name), str) for name in names[1:] if name != "objectId")
        ]
    shown = [{**case["row"], "objectId": f"case {at}"} for at, case in enumerate(rows)]
    path = tmp_path / f"rows.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in shown), encoding="utf-8")
    else:
        frame = pl.DataFrame([{name: row[name] for name in names} for row in shown])
        frame.rename({name: name.replace(".", "__DOT__") for name in names}).write_csv(
            path, separator="\t", quote_style="never"
        )
    scores = scorer.score(path, quarantine=Quarantine(tmp_path / "bad.parquet", 1.0))
    by_id = {
        id_: (raw, percentile) for id_, raw, percentile in scores.select("id", "raw_score", "percentile").iter_rows()
    }
    assert differences(rows, [by_id.get(f"case {at}") for at in range(len(rows))]) == []
    assert len(rows) > 90
    assert len(scores) + len(pl.read_parquet(tmp_path / "bad.parquet")) == len(rows)


def test_the_cap_of_ages_is_one_setting(imported: tuple[Scorer, list[Any]], tmp_path: Path) -> None:
    scorer, _ = imported
    wire, config = scorer.bundle.market.wire, scorer.bundle.config
    assert wire is not None
    assert wire.age_cap_seconds == config.age_cap_seconds == (1e7 if len(config.histories) == 1 else 2e7)
    scorer.bundle.save(tmp_path / "bundle")
    Scorer.load(tmp_path / "bundle", ["wire.age_cap_seconds=1e6"])
    with pytest.raises(ConfigError, match=r"wire\.age_cap_seconds must be at most the model's"):
        Scorer.load(tmp_path / "bundle", ["wire.age_cap_seconds=3e7"])
