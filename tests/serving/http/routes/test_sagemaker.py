"""/ping and /invocations as SageMaker calls them, and an imported model's answers in the legacy system's words."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonschema_rs import Draft202012Validator

from support.endpoint import endpoint, made_bundle, payment
from tsa.bundle.bundle import Bundle
from tsa.inference.scorer import Scorer
from tsa.legacy.response import legacy_response

ROWS = [payment("a"), payment("b", at="2025-04-20T13:00:00Z", amount=900)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("sagemaker") / "bundle")


@pytest.fixture
def client(bundle: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with endpoint(bundle, history=f"sqlite:///{tmp_path}/h.db") as found:
        yield found


@pytest.fixture(scope="module")
def offline(bundle: Path) -> list[float]:
    return Scorer.load(bundle).score(ROWS)["raw_score"].to_list()


def csv_of(rows: list[dict[str, object]]) -> bytes:
    return pl.DataFrame(rows).write_csv().encode()


def parquet_of(rows: list[dict[str, object]]) -> bytes:
    pl.DataFrame(rows).write_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


def test_ping_says_that_it_can_score(client: httpx.Client) -> None:
    assert client.get("/ping").status_code == 200


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", json.dumps(ROWS).encode()),
        ("application/json", json.dumps({"instances": ROWS}).encode()),
        ("application/jsonlines", b"\n".join(json.dumps(row).encode() for row in ROWS)),
        ("text/csv", csv_of(ROWS)),
        ("application/x-parquet", parquet_of(ROWS)),
    ],
)
def test_every_format_gets_the_same_scores(client: httpx.Client, offline: list[float], kind: str, body: bytes) -> None:
    answer = client.post("/invocations", content=body, headers={"content-type": kind, "accept": "application/json"})
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    assert [one["id"] for one in found] == ["a", "b"]
    assert [one["raw_score"] for one in found] == pytest.approx(offline, abs=1e-6)


def test_csv_in_gives_csv_out_a_line_for_each(client: httpx.Client, offline: list[float]) -> None:
    body = csv_of([*ROWS, payment("c", at="never")])
    answer = client.post("/invocations", content=body, headers={"content-type": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    found = list(csv.DictReader(io.StringIO(answer.text)))
    assert [float(line["raw_score"]) for line in found[:2]] == pytest.approx(offline, abs=1e-6)
    assert (found[2]["id"], found[2]["raw_score"]) == ("", "")
    assert found[2]["problem"].startswith("bad_time: at must")


def test_a_single_payment_that_breaks_a_rule_is_refused(client: httpx.Client) -> None:
    answer = client.post("/invocations", json=payment("a", amount="x"))
    assert (answer.status_code, answer.json()["rule"]) == (422, "not_a_number")
    empty = client.post("/invocations", json={"instances": []}, headers={"accept": "text/csv"})
    assert (empty.status_code, empty.json()["rule"]) == (422, "empty")
    unread = client.post("/invocations", content=b"PAR1", headers={"content-type": "application/x-parquet"})
    assert (unread.status_code, unread.json()["rule"]) == (400, "not_parquet")


@pytest.mark.parametrize(
    ("columns", "options", "status"),
    [
        ({"id": pa.ListArray.from_arrays([0, 30_000_000], pa.repeat(1, 30_000_000))}, {}, 413),
        ({"id": ["x" * 300_000] * 1000}, {}, 413),
        ({"id": [["x" * 300_000] * 1000]}, {}, 413),
        ({"id": pa.array([b"x" * 300_000] * 1000, pa.binary(300_000))}, {}, 413),
        (
            {"id": ["x" * 300_000] * 1000},
            {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY"}},
            400,
        ),
    ],
)
def test_a_parquet_file_that_swells_is_refused(
    client: httpx.Client, columns: dict[str, Any], options: dict[str, Any], status: int
) -> None:
    """A kilobyte that says of itself how small it is, and would be a third of a gigabyte of values."""
    pq.write_table(pa.table(columns), buffer := io.BytesIO(), compression="zstd", **options)
    assert len(buffer.getvalue()) < 1000
    answer = client.post("/invocations", content=buffer.getvalue(), headers={"content-type": "application/x-parquet"})
    assert answer.status_code == status, answer.text


def test_an_imported_model_answers_word_for_word_as_the_original(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle", imported=True)
    raw = Scorer.load(bundle).score([payment("a")])["raw_score"].to_numpy()
    calibration = Bundle.open(bundle).calibration
    assert calibration is not None
    with endpoint(bundle) as client:
        answer = client.post("/invocations", json=payment("a"))
        assert answer.json() == legacy_response(raw, calibration)
        (said,) = answer.json()["predictions"]
        assert list(said) == ["score-percentile", "legacy-score", "ProbabilityScore"]
        many = client.post("/invocations", json=[payment("a"), payment("b", amount="x")]).json()["predictions"]
        assert many[0] == said
        assert many[1]["problem"]["rule"] == "not_a_number"
        lines = client.post("/invocations", json=payment("a"), headers={"accept": "text/csv"}).text.splitlines()
        assert lines[0] == "score-percentile,legacy-score,ProbabilityScore"
        both = client.post(
            "/invocations", json=[payment("b", amount="x"), payment("a")], headers={"accept": "text/csv"}
        ).text.splitlines()
        assert both[0] == "score-percentile,legacy-score,ProbabilityScore,problem"
        assert both[1].startswith(",,,not_a_number: amount")
        assert both[2] == lines[1] + ","
        assert client.post("/v1/score", json=payment("a")).json()["raw_score"] == pytest.approx(float(raw[0]))


@pytest.mark.parametrize("lacks", ["percentile", "probability"])
def test_an_imported_model_without_a_map_leaves_the_score_out(tmp_path: Path, lacks: str) -> None:
    opened = Bundle.open(made_bundle(tmp_path / "bundle", imported=True))
    assert opened.calibration is not None
    calibration = replace(opened.calibration, **{lacks: None}, reasons={lacks: "it was not imported"})
    replace(opened, calibration=calibration).save(tmp_path / "bundle")
    name = {"percentile": "score-percentile", "probability": "ProbabilityScore"}[lacks]
    with endpoint(tmp_path / "bundle") as client:
        body = client.post("/invocations", json=[payment("a"), payment("b", amount="x")]).json()
        wanted = [key for key in ("score-percentile", "legacy-score", "ProbabilityScore") if key != name]
        assert list(body["predictions"][0]) == wanted
        document = client.get("/openapi.json").json()
        Draft202012Validator({"$ref": "#/components/schemas/Predictions", **document}).validate(body)
        lines = client.post("/invocations", json=payment("a"), headers={"accept": "text/csv"}).text.splitlines()
        assert lines[0] == ",".join(wanted)
        score = client.post("/v1/score", json=payment("c")).json()
        assert score[lacks] is None
        assert score["raw_score"] > 0
