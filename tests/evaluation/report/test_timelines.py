"""The reasons of the riskiest payments in the report: well formed, to scale, nothing in them is taken as markup."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsa.evaluation.evaluate import evaluate
from tsa.evaluation.report.report import render
from tsa.evaluation.report.timelines import reasons, time_line

HOSTILE = "<script>alert(1)</script>&\"'"


def event(age: float, attribution: float, outcome: str = "not known", attention: float = 0.1, id_: Any = 7) -> dict:
    time = "2025-04-19T16:21:40+00:00"
    return {"id": id_, "time": time, "age_seconds": age} | {
        "outcome": outcome,
        "attribution": attribution,
        "attention": attention,
    }


def drawn(*events: dict, loudest: float = 1.0) -> ET.Element:
    return ET.fromstring(str(time_line("h1", f"title {HOSTILE}", events, loudest)))


def test_dots_are_sized_by_what_they_add_and_coloured_by_its_sign() -> None:
    svg = drawn(event(9e6, -1.0), event(8e4, 0.25), event(10.0, 0.0))
    dots = [(dot.get("class"), float(dot.get("r") or 0)) for dot in svg.iter("circle")]
    assert dots == [("event con", 10.0), ("event pro", 6.0), ("event con", 2.0)]
    xs = [float(dot.get("cx") or 0) for dot in svg.iter("circle")]
    assert xs == sorted(xs)
    assert xs[0] == 14.0
    assert xs[-1] < 400


def test_known_frauds_are_marked_where_they_are() -> None:
    svg = drawn(event(9e6, 0.5, "fraud"), event(8e4, 0.25, "genuine"))
    marks = [path.get("d") for path in svg.iter("path") if path.get("class") == "known"]
    assert marks == ["M14.0 31l-5 -9h10z"]


def test_bars_are_as_high_as_attention() -> None:
    svg = drawn(event(9e6, 0.5, attention=0.4), event(8e4, 0.25, attention=0.1))
    bars = [path.get("d") or "" for path in svg.iter("path") if path.get("class") == "attention"]
    assert [bar.split("v-")[1] for bar in bars] == ["34.0", "8.5"]


def test_names_of_times_do_not_run_into_each_other() -> None:
    for age in (0.0, 30.0, 1e5, 1e6, 1e7, 1e8):
        svg = drawn(event(age, 0.5))
        xs = sorted(float(text.get("x") or 0) for text in svg.iter("text") if text.get("text-anchor") == "middle")
        assert all(b - a >= 42 for a, b in itertools.pairwise(xs))


def test_ids_are_text() -> None:
    svg = drawn(event(5.0, 0.5, id_=HOSTILE))
    assert HOSTILE in next(svg.iter("circle"))[0].text  # type: ignore[operator]


def test_a_report_without_reasons_has_no_section() -> None:
    assert reasons(None) is None
    assert reasons({"note": None, "payments": []}) is None
    noted = reasons({"note": "pip install", "payments": []})
    assert noted == {"note": "pip install", "payments": []}


def test_the_report_of_a_run_tells_of_its_ten_riskiest_payments(demo_run: Path) -> None:
    report = json.loads((demo_run / "report.json").read_text())
    scores = pl.read_parquet(demo_run / "scores.parquet").sort("raw_score", descending=True, maintain_order=True)
    told = report["reasons"]["payments"]
    assert [one["id"] for one in told] == scores["id"].head(10).to_list()
    assert [one["scores"]["raw_score"] for one in told] == pytest.approx(
        scores["raw_score"].head(10).to_list(), abs=1e-6
    )
    assert all(abs(one["residual"]) <= 0.01 * abs(one["total"]) for one in told)
    html = (demo_run / "report.html").read_text()
    assert html.count('class="timeline"') == sum(bool(h["events"]) for one in told for h in one["histories"])
    identifiers = re.findall(r' id="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
    assert "<script" not in html


def test_what_the_market_says_cannot_break_the_page(demo_run: Path) -> None:
    report = json.loads((demo_run / "report.json").read_text())
    one = report["reasons"]["payments"][0]
    one["id"] = HOSTILE
    one["histories"][0]["name"] = HOSTILE
    one["reasons"][0]["text"] = HOSTILE
    assert "<script" not in render(report)


def test_without_captum_the_report_says_so(demo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    run = Path(shutil.copytree(demo_run, tmp_path / "run"))
    report = evaluate(run, replicates=5)
    assert report["reasons"]["payments"] == []
    assert "pip install &#39;tsa-fraud[explain]&#39;" in (run / "report.html").read_text()
