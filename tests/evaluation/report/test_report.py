"""report.html is well formed, fetches nothing, escapes everything and says who is better; report.json is plain."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tsa.evaluation.metrics.calibration import frauds_by_day, measure_calibration, population_stability, reliability
from tsa.evaluation.metrics.evaluate_scores import ScoredPayments, evaluate_scores, paired_difference
from tsa.evaluation.report.report import render, to_plain, write_report
from tsa.text import plural

HOSTILE = "<script>alert('x')</script>&\"<img src=x onerror=alert(1)>{{ 7 * 7 }}\x00\x1b\ud800"


def evaluated(size=3000, noise=0.0, rate=0.05):
    generator = np.random.default_rng(0)
    label = (generator.random(size) < rate).astype(np.int8)
    score = 1 / (1 + np.exp(2 - generator.normal(size=size) - 2 * label - noise * generator.normal(size=size)))
    segment = np.array(["DE", HOSTILE.replace("\ud800", ""), None], dtype=object)[generator.integers(0, 3, size)]
    payments = ScoredPayments(
        label=label,
        score=score,
        time_seconds=1.5e9 + np.sort(generator.random(size)) * 4 * 86_400,
        amount=generator.lognormal(size=size),
        entity=generator.integers(0, 300, size),
        segments={"country": segment, "many": np.array([f"v{i}" for i in generator.integers(0, 40, size)])},
        history_length={"card": generator.geometric(0.05, size)},
    )
    return payments, evaluate_scores(payments, threshold=0.4, top_k=10, replicates=20)


def calibrated(payments, after=True):
    """What `assess_calibration` says, of payments whose probability is half their score."""
    half = payments.score / 2
    measure = partial(measure_calibration, payments.label, generator=np.random.default_rng(0), replicates=10)
    part = {"value": HOSTILE, "n": 9, "frauds": 2}
    forms = {"before": payments.score, **({"after": half} if after else {})}
    measures = {name: measure(values) for name, values in forms.items()}
    figures = {name: found["metrics"] for name, found in measures.items()}
    return {
        "method": HOSTILE if after else None,
        "note": None if after else f"There is no probability score: {HOSTILE}.",
        "after": None,
        **measures,
        "reliability": {"after": None, **{k: reliability(payments.label, v) for k, v in forms.items()}},
        "per_day": frauds_by_day(payments.label, half, payments.time_seconds),
        "segments": {HOSTILE: [part | figures, {**part, "value": None, **figures}, part | {"rest": 12} | figures]},
        "drift": {
            "reference": "calibration",
            "psi": population_stability(payments.score, half),
            "expected": 2.0,
            "observed": 3,
        },
    }


def report(noise=1.0, swap=False, **changes):
    payments, own = evaluated()
    other_payments, other = evaluated(noise=noise)
    if swap:
        own, other = other, own
    scores = (other_payments.score, payments.score) if swap else (payments.score, other_payments.score)
    epochs = [
        {
            "epoch": e,
            "loss": 1 / e,
            "validation_average_precision": 0.5,
            "validation_roc_auc": 0.9,
            "learning_rate": 1e-3,
            "seconds": 2.0,
        }
        for e in range(1, 5)
    ]
    splits = {"train": {"n": 60, "frauds": 3, "start": "2018-05-07T00:00:00+00:00", "end": None}}
    return {
        "title": f"Title {HOSTILE}",
        "created": "2026-01-05T12:00:00+00:00",
        "market": {"name": HOSTILE, "history": [{"name": HOSTILE}]},
        "data": {
            "rows_read": 100,
            "rows_kept": 90,
            "rows_excluded": 4,
            "rows_quarantined": 6,
            "by_rule": {HOSTILE: 6},
            "labels": {"fraud": 3, "genuine": 80, "unknown": 7},
            "splits": splits,
            "files": [HOSTILE],
            "notes": [{"kind": "missing", "column": HOSTILE, "text": f"90.0% of the rows have no value {HOSTILE}"}],
        },
        "model": {"parameters": 1234, "preset": "default", "config": {"width": 64}},
        "training": {"epochs": epochs, "best_epoch": 3},
        "evaluation": own,
        "calibration": calibrated(payments),
        "comparison": {
            "model_name": f"LightGBM{HOSTILE}",
            "evaluation": other,
            "difference": paired_difference(*scores, payments, replicates=50),
            "features": [{"name": HOSTILE, "importance": 0.4}, {"name": "amount", "importance": 0.1}],
        },
        "environment": {"python": "3.11"},
    } | changes


def parsed(page: str) -> ET.Element:
    """The page as XML: every element closed, every attribute quoted, nothing raw."""
    return ET.fromstring(page.replace("<!DOCTYPE html>", "", 1))


def text_of(page: str) -> str:
    return " ".join(" ".join(parsed(page).itertext()).split())


@pytest.fixture(scope="module")
def full():
    return report()


@pytest.fixture(scope="module")
def page(full):
    return render(to_plain(full))


def test_is_well_formed_with_unique_ids(page):
    root = parsed(page)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    linked = {element.get("href") for element in root.iter("a")}
    assert linked <= {f"#{identifier}" for identifier in ids}
    labelled = [element.get("aria-labelledby") for element in root.iter() if element.get("aria-labelledby")]
    assert {word for label in labelled for word in label.split()} <= set(ids)


def test_fetches_nothing_and_runs_nothing(page):
    root = parsed(page)
    tags = {element.tag for element in root.iter()}
    assert not tags & {"script", "img", "link", "iframe", "object", "embed", "base", "form", "image", "use"}
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert name != "src"
            if name == "href":
                assert value.startswith("#")
            if name == "style":
                assert re.fullmatch(r"(width:[\d.]+%|margin-top:10px)", value)
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page
    policy = [m.get("content") for m in root.iter("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_hostile_text_is_shown_as_text(page):
    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    assert not re.search("[\x00\x1b\ud800]", page)
    shown = text_of(page)
    assert shown.count("<script>alert('x')</script>&") >= 6


def test_is_accessible(page):
    root = parsed(page)
    charts = [svg for svg in root.iter("svg") if svg.get("class") == "chart"]
    assert len(charts) == 8
    for svg in charts:
        assert svg.get("role") == "img"
        assert svg.find("title").text
        assert svg.find("desc").text
    for svg in root.iter("svg"):
        assert svg.get("role") == "img" or svg.get("aria-hidden") == "true"
    tables = [t for t in root.iter("table") if t.find("thead") is not None]
    assert len(tables) == 9
    assert all(table.find("caption") is not None for table in tables)
    assert root.get("lang") == "en"


def test_every_number_drawn_lies_in_the_picture(page):
    for svg in parsed(page).iter("svg"):
        _, _, width, height = map(float, svg.get("viewBox").split())
        for path in svg.iter("path"):
            if "v" not in path.get("d") and "H" not in path.get("d"):
                numbers = np.array([float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))])
                assert (numbers[::2] >= 0).all()
                assert (numbers[::2] <= width).all()
                assert (numbers[1::2] >= 0).all()
                assert (numbers[1::2] <= height).all()


def test_says_who_is_better(page):
    assert "TSA is better than LightGBM" in text_of(page)
    assert 'class="verdict better"' in page
    worse = render(to_plain(report(swap=True)))
    assert "TSA is worse than LightGBM" in text_of(worse)
    assert 'class="verdict worse"' in worse
    equal = render(to_plain(report(noise=0.0)))
    assert "No clear difference between TSA and LightGBM" in text_of(equal)
    assert 'class="verdict unclear"' in equal


def test_accounts_for_every_row(full, page):
    shown = text_of(page)
    assert "Every row that was read is accounted for" in shown
    assert "90.0% of the rows have no value" in shown, "notes on columns"
    assert "histories only: outside these ranges, or outcome not known 30 30.00%" in shown
    lost = full["data"] | {"rows_kept": 89}
    assert "do not add up" in text_of(render(to_plain(full | {"data": lost})))


def test_parts_are_shown(page):
    shown = text_of(page)
    assert "By country" in shown
    assert "By length of the card history" in shown
    assert "other (20 values)" in shown
    assert "missing" in shown


def test_calibration_is_shown(full, page):
    shown = text_of(page)
    ratio = full["calibration"]["after"]["metrics"]["ratio"]["value"]
    assert f"(ratio {ratio:.2f}, " in shown
    assert "From the calibration range to the test range, scores are another population" in shown
    assert "On the calibration range, 2.0 frauds were expected and 3 observed." in shown
    for text in ("Reliability", "Frauds by day", "Brier score", "Expected to observed", "missing", "other (12 values)"):
        assert text in shown
    payments, _ = evaluated()
    without = text_of(render(to_plain(full | {"calibration": calibrated(payments, after=False)})))
    assert "There is no probability score: " in without
    assert "The raw scores taken as probabilities add up to" in without
    for gone in (None, {**full["calibration"], "after": None, "before": {"n": 0, "frauds": 0, "metrics": {}}}):
        assert "how accurate are the probabilities" not in text_of(render(to_plain(full | {"calibration": gone})))


def test_without_comparison_training_or_data(full):
    bare = {"evaluation": full["evaluation"], "comparison": None}
    shown = text_of(render(to_plain(bare)))
    assert "TSA reaches an average precision of" in shown
    assert "not compared" in shown
    assert "LightGBM" not in shown
    assert "Difference" not in shown


@pytest.mark.parametrize(("size", "kind"), [(0, 0), (40, 0), (40, 1)])
def test_shows_what_is_undefined(size, kind):
    label = np.full(size, kind, dtype=np.int8)
    payments = ScoredPayments(label=label, score=np.linspace(0, 1, size), time_seconds=np.zeros(size))
    own = evaluate_scores(payments, threshold=2.0, replicates=5)
    difference = paired_difference(payments.score, payments.score, payments, replicates=5)
    comparison = {"model_name": "LightGBM", "evaluation": own, "difference": difference, "features": []}
    for compared in (None, comparison):
        shown = text_of(render(to_plain({"evaluation": own, "comparison": compared})))
        assert "nan" not in shown.lower()
        assert "None" not in shown
    assert "cannot be compared" in shown


def test_training_that_was_not_finite(full):
    epochs = [{"epoch": 1, "loss": float("nan"), "validation_average_precision": None, "validation_roc_auc": None}]
    shown = text_of(render(to_plain(full | {"training": {"epochs": epochs, "best_epoch": None}})))
    assert "1 epochs" not in shown
    assert "1 epoch in 0 seconds" in shown


def test_writes_both_whole(tmp_path, full):
    write_report(tmp_path / "run", full)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]
    read = json.loads((tmp_path / "run" / "report.json").read_text())
    assert read["evaluation"]["metrics"] == full["evaluation"]["metrics"]
    again = write_and_read(tmp_path / "again", read)
    assert again == (tmp_path / "run" / "report.html").read_text()


def write_and_read(out: Path, content) -> str:
    write_report(out, content)
    return (out / "report.html").read_text()


def test_a_report_that_fails_leaves_the_old_one(tmp_path, full):
    write_report(tmp_path, full)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyError):
        write_report(tmp_path, {"title": "no evaluation"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_to_plain():
    strange = {
        "a": np.float32(0.5),
        "b": np.array([1, 2]),
        3: (np.nan, float("inf")),
        "p": Path("x"),
        "t": datetime(2026, 1, 5),
        "n": None,
        "y": np.bool_(True),
        "s": "\ud800",
    }
    assert to_plain(strange) == {
        "a": 0.5,
        "b": [1, 2],
        "3": [None, None],
        "p": "x",
        "t": "2026-01-05 00:00:00",
        "n": None,
        "y": True,
        "s": "?",
    }


@pytest.mark.parametrize(
    ("n", "what", "text"),
    [
        (1, "fraud with an amount", "1 fraud with an amount"),
        (8, "fraud with an amount", "8 frauds with an amount"),
        (0, "fraud", "0 frauds"),
        (2, "genuine payment", "2 genuine payments"),
        (3, "payment at or above the threshold", "3 payments at or above the threshold"),
        (2, "fraud or payment at or above the threshold", "2 frauds or payments at or above the threshold"),
        (5, "entity with a fraud", "5 entities with a fraud"),
    ],
)
def test_plurals(n, what, text):
    assert plural(n, what) == text
