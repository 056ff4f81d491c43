"""`tsa monitor` on real logs: a log that has not moved raises nothing; one that has raises what has, and ends with 3."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsa.config.tables import Monitoring
from tsa.data.time_outliers import valid_end, valid_span
from tsa.evaluation.report.report import page
from tsa.monitoring.alerts import find_alerts
from tsa.monitoring.page import plain, view

DAY = 86_400
MONDAY = 1_525_651_200  # 2018-05-07
N, DAYS = 6000, 42
HOSTILE = "<script>alert(1)</script>&\"'"

MARKET = """
name = "still"
[event]
id = "id"
time = "time"
time_unit = "s"
amount = "amount"
[label]
column = "fraud"
delay_days = 3
[[history]]
name = "customer"
key = "customer"
length = 3
[features]
calendar = ["day_of_week"]
categorical = ["category", "channel"]
numerical = [{ name = "amount", transform = "log1p" }]
[split]
train = ["2018-05-07", "2018-05-17"]
validation = ["2018-05-17", "2018-05-20"]
calibration = ["2018-05-20", "2018-06-03"]
test = ["2018-06-06", "2018-06-18"]
[evaluation]
top_k = 5
"""
FEATURES_ALONE = (
    "score_psi=[90,90]",
    "operating_point_change=[90,90]",
    "calibration=[90,90]",
    "average_precision_drop=[90,90]",
)


def payments(seed=0):
    """Payments that are the same all along: one in ten has category "bad", of which half are fraud."""
    generator = np.random.default_rng(seed)
    bad = generator.random(N) < 0.1
    category = np.where(bad, "bad", generator.choice(["good", "fair", "dull"], N))
    return pl.DataFrame(
        {
            "id": np.arange(N),
            "time": MONDAY + np.arange(N) * (DAYS * DAY) // N,
            "fraud": ((bad & (generator.random(N) < 0.5)) | (generator.random(N) < 0.003)).astype(int),
            "customer": generator.integers(0, 300, N),
            "category": category,
            "channel": generator.choice(["web", "shop", "phone"], N, p=[0.5, 0.3, 0.2]),
            "amount": generator.lognormal(3, 1, N),
        }
    )


@pytest.fixture(scope="module")
def still(tmp_path_factory, tsa, small):
    """A folder with a log that does not move, its market, and a run."""
    folder = tmp_path_factory.mktemp("still")
    (folder / "market.toml").write_text(MARKET)
    payments().write_parquet(folder / "log.parquet")
    arguments = ("--market", folder / "market.toml", *small, "--set", "training.epochs=3", folder / "log.parquet")
    done = tsa("run", *arguments, "--no-compare", "--out", folder / "run")
    assert done.code == 0, done.err
    return folder


LATER = pl.col("time") >= MONDAY + 30 * DAY  # 2018-06-06


def shifted(how):
    """The log, with its last twelve days changed."""
    log, last = payments(), LATER
    missing = last & (pl.col("id") % 3 == 0)
    changes = {
        "nothing": [],
        "amounts": [pl.when(last).then(pl.col("amount") * 3).otherwise("amount").alias("amount")],
        "missing": [pl.when(~missing).then("channel").alias("channel")],
        "unknown": [pl.when(missing).then(pl.lit("kiosk")).otherwise("channel").alias("channel")],
        "scores": [pl.when(missing).then(pl.lit("bad")).otherwise("category").alias("category")],
        "labels": [pl.when(last).then((pl.col("id") % 20 == 0).cast(pl.Int64)).otherwise("fraud").alias("fraud")],
    }
    if how == "volume":
        return log.filter(~last | (pl.col("id") % 3 == 0))
    return log.with_columns(changes[how])


def watch(tsa, still, log, out, *options):
    log.write_parquet(out.with_suffix(".parquet"))
    since = ("--from", "2018-06-06") if "--from" not in options else ()
    done = tsa("monitor", still / "run" / "bundle", out.with_suffix(".parquet"), *since, "--out", out, *options)
    found = json.loads((out / "monitor.json").read_text()) if done.code in (0, 3) else None
    return done, found


def raised(found):
    return {(alert["measure"], alert["feature"]) for alert in found["alerts"] if alert["severity"] == "alert"}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("nothing", set()),
        ("amounts", {("psi", "amount")}),
        ("missing", {("missing_rate", "channel")}),
        ("unknown", {("unknown_rate", "channel")}),
        ("volume", {("volume", None)}),
    ],
)
def test_a_log_that_has_moved_raises_what_has_moved(tsa, still, tmp_path, how, expected):
    settings = [part for text in FEATURES_ALONE for part in ("--set", f"monitoring.{text}")]
    done, found = watch(tsa, still, shifted(how), tmp_path / "out", *settings)
    assert done.code == (3 if expected else 0), done.err + done.out
    assert raised(found) == expected
    assert {alert["severity"] for alert in found["alerts"]} <= {"alert"}
    for alert in found["alerts"]:
        about = f" of {alert['feature']}" if alert["feature"] else ""
        assert f"alert: {alert['measure']}{about} {alert['value']:.4g}" in done.out
        assert alert["windows"] >= 1
        assert alert["window"]["start"] >= "2018-06-06"
        assert alert["threshold"] == found["settings"][alert["measure"]][1]


def test_a_log_that_has_not_moved_raises_nothing_at_all(tsa, still, tmp_path):
    done, found = watch(tsa, still, shifted("nothing"), tmp_path / "out")
    assert (done.code, found["alerts"]) == (0, [])
    assert "No alert" in done.out
    assert found["reference"]["source"] == "the calibration range of the run"
    assert found["reference"]["start"].startswith("2018-05-20T00:00")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        *("monitor.html", "monitor.json", "monitor.log", "reference.json"),
    ]


def test_frauds_that_are_missed_are_seen_once_they_are_known(tsa, still, tmp_path):
    """Frauds of the last days are others than the model looks for; their outcome comes three days later."""
    log = shifted("labels")
    done, found = watch(tsa, still, log, tmp_path / "out")
    assert done.code == 3
    assert ("average_precision_drop", None) in raised(found)
    assert not {measure for measure, _ in raised(found)} - {"average_precision_drop", "calibration"}
    done, found = watch(tsa, still, log, tmp_path / "early", "--as-of", "2018-06-06T12:00:00")
    assert (done.code, found["alerts"]) == (0, [])
    assert found["performance"]["full_range"]["share"] == 0
    assert "no outcome is known yet" in (tmp_path / "early" / "monitor.html").read_text()
    done, found = watch(tsa, still, log, tmp_path / "later", "--as-of", "2018-07-01")
    assert found["performance"]["full_range"]["share"] == 1
    assert found["expected"]["checked"] > 0


def test_scores_that_have_moved_are_seen(tsa, still, tmp_path):
    """A third of the payments is now of the category that frauds are of: more of them score high, fewer of those are fraud."""
    calm = ("--set", "monitoring.psi=[90,90]", "--set", "monitoring.average_precision_drop=[90,90]")
    done, found = watch(tsa, still, shifted("scores"), tmp_path / "out", *calm, "--as-of", "2018-07-01")
    assert done.code == 3
    measures = {measure for measure, _ in raised(found)}
    assert measures == {"score_psi", "operating_point_change", "calibration"}


def test_a_reference_is_written_and_serves_again(tsa, still, tmp_path):
    options = ("--reference-from", "2018-05-20", "--reference-to", "2018-06-03")
    _, first = watch(tsa, still, shifted("amounts"), tmp_path / "first", *options)
    written = tmp_path / "first" / "reference.json"
    _, again = watch(tsa, still, shifted("amounts"), tmp_path / "again", "--reference", written)
    assert again == first
    assert (tmp_path / "again" / "reference.json").read_text() == written.read_text()
    other = ("--reference", still / "log.parquet", *options)
    _, log = watch(tsa, still, shifted("amounts"), tmp_path / "log", *other)
    sources = [found["reference"].pop("source") for found in (first, log)]
    assert sources == ["other payments of the log", "log.parquet"]
    assert log == first


def test_thresholds_of_a_market_file(tsa, still, tmp_path):
    text = MARKET + '[monitoring]\nwindow = "day"\npsi = [5, 9]\nignore = ["channel"]\n'
    (tmp_path / "own.toml").write_text(text)
    done, found = watch(tsa, still, shifted("unknown"), tmp_path / "out", "--market", tmp_path / "own.toml")
    assert len(found["windows"]) == 12
    assert found["settings"]["psi"] == [5, 9]
    assert "channel" not in {alert["feature"] for alert in found["alerts"]}
    assert "of channel" not in done.out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--from", "2019-01-01"), "ConfigError: the payments must contain payments (got none in the given range"),
        (("--reference-to", "2018-06-07"), "the reference must not overlap the payments monitored"),
        (("--as-of", "soon"), "as-of must be a time like 2018-06-24"),
        (("--set", "monitoring.psi=[0.3, 0.1]"), "monitoring.psi: must be two numbers above 0"),
        (("--set", 'monitoring.ignore=["device"]'), "monitoring.ignore: must be features (got 'device'"),
    ],
)
def test_bad_input(tsa, still, tmp_path, options, error):
    done, _ = watch(tsa, still, payments(), tmp_path / "out", *options)
    assert done.code == 2
    assert error in " ".join(done.err.split())
    assert not (tmp_path / "out" / "monitor.json").exists()


def test_a_bundle_without_its_run_needs_a_reference(tsa, still, tmp_path):
    packed = tmp_path / "bundle.tar.gz"
    assert tsa("bundle", "pack", still / "run" / "bundle", "--out", packed).code == 0
    done = tsa("monitor", packed, still / "log.parquet", "--from", "2018-06-06", "--out", tmp_path / "out")
    assert done.code == 2
    assert "a --reference is needed" in done.err
    options = ("--from", "2018-06-06", "--reference-from", "2018-05-20", "--reference-to", "2018-06-03")
    assert tsa("monitor", packed, still / "log.parquet", *options, "--out", tmp_path / "out").code == 0
    written = tmp_path / "out" / "reference.json"
    table = json.loads(written.read_text())
    written.write_text(json.dumps({**table, "model": "another"}))
    done = tsa("monitor", packed, still / "log.parquet", "--reference", written, "--out", tmp_path / "again")
    assert done.code == 2
    assert "got a reference of another model" in done.err


def test_a_log_without_outcomes_has_no_performance(tsa, still, tmp_path):
    _, found = watch(tsa, still, payments().drop("fraud"), tmp_path / "out")
    assert found["performance"]["full_range"]["reason"] == "no outcome is known yet"
    assert found["performance"]["reference"]["metrics"]
    assert found["alerts"] == []


def comparison(**changes):
    """The least that alerts are found in."""
    rates = {"missing_rate": 0.0, "unknown_rate": 0.0, "n": 10_000}
    feature = {
        "name": "x",
        "kind": "numerical",
        "reference": dict(rates),
        "full_range": {"psi": 0.0, "by_chance": 0.01, **rates},
        "windows": [{"psi": 0.0, "by_chance": 0.01, **rates}],
        "bins": [],
    }
    metrics = {"average_precision": {"value": 0.5, "low": 0.4, "high": 0.6}}
    measured = {"n": 100, "share": 1.0, "matured": 100, "frauds": 20, "fraud_rate": 0.2, "metrics": metrics}
    volume = {"n": 100, "days": 1, "expected": 100.0, "change": 0.0}
    range_ = {"start": "2018-06-06T00:00:00+00:00", "end": "2018-06-13T00:00:00+00:00"}
    return {
        "range": range_,
        "windows": [range_],
        "features": [feature],
        "scores": {**feature, "points": []},
        "volume": {"days": [], "full_range": volume, "windows": [volume]},
        "performance": {"reference": measured, "full_range": measured, "windows": [measured]},
    } | changes


def test_chance_raises_nothing():
    """Each is beyond its threshold, but so few payments may show that by chance."""
    found = comparison()
    feature = found["features"][0]
    feature["full_range"] = feature["full_range"] | {"psi": 0.4, "by_chance": 0.5, "missing_rate": 0.1, "n": 10}
    wide = {"average_precision": {"value": 0.2, "low": 0.0, "high": 0.45}}
    measured = found["performance"]["full_range"] | {"metrics": wide}
    found["performance"] = found["performance"] | {"full_range": measured, "windows": [measured]}
    found["volume"]["full_range"] = {"n": 2, "days": 1, "expected": 6.0, "change": -2 / 3}
    assert find_alerts(found, Monitoring()) == []


def test_an_alert_tells_its_worst_window_and_passed_threshold():
    found = comparison()
    windows = [found["features"][0]["windows"][0] | {"psi": psi} for psi in (0.12, 0.3, 0.05)]
    found["features"][0]["windows"] = windows
    found["windows"] = [{"start": str(at), "end": str(at + 1)} for at in range(3)]
    (alert,) = find_alerts(found, Monitoring())
    assert (alert["severity"], alert["value"], alert["threshold"], alert["windows"]) == ("alert", 0.3, 0.25, 2)
    assert alert["window"] == {"start": "1", "end": "2"}
    found["features"][0]["windows"] = windows[:1]
    (alert,) = find_alerts(found, Monitoring())
    assert (alert["severity"], alert["threshold"]) == ("warning", 0.1)
    assert find_alerts(found, Monitoring(ignore=("x",))) == []


def test_performance_of_few_known_outcomes_raises_nothing():
    found = comparison()
    fallen = {"average_precision": {"value": 0.1, "low": 0.05, "high": 0.2}}
    measured = found["performance"]["full_range"] | {"metrics": fallen, "share": 0.4}
    found["performance"] = found["performance"] | {"full_range": measured, "windows": []}
    assert find_alerts(found, Monitoring()) == []
    assert [alert["measure"] for alert in find_alerts(found, Monitoring(min_matured_share=0.3))] == [
        "average_precision_drop"
    ]


def test_the_page_is_whole_and_nothing_in_it_is_markup(tsa, still, tmp_path):
    done, found = watch(tsa, still, shifted("amounts"), tmp_path / "out")
    text = (tmp_path / "out" / "monitor.html").read_text()
    ET.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert found["summary"] in done.out
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    for at, feature in enumerate(found["features"]):
        feature["name"] = f"{at}{HOSTILE}"
        for one in feature["bins"]:
            one["bin"] = one["tick"] = HOSTILE
    for alert in found["alerts"]:
        alert["feature"] = HOSTILE
    found["reference"]["source"], found["summary"] = HOSTILE, plain(found)
    hostile = page("monitor.html", view(found), "tsa.monitoring")
    ET.fromstring(hostile.removeprefix("<!DOCTYPE html>"))
    assert "<script" not in hostile


def test_one_clock_that_is_wrong_does_not_move_the_end_of_a_log() -> None:
    """As of when outcomes count is the last time that others bear out; one payment dated ahead is none."""
    now, hours = 1_800_000_000.0, np.arange(2000) * 3600.0
    sound = now - 3 * 86_400 - hours[::-1]
    last = sound[-1]
    assert valid_end(sound, now) == last
    for ahead in (now + 60, now + 300 * 86_400, now - 3600):
        assert valid_end(np.append(sound, ahead), now) == (
            ahead if ahead == now - 3600 and ahead - last < 2 * 86_400 else last
        )
    old = sound - 300 * 86_400  # a log of the past, with one payment that is dated later, and not in the future
    assert valid_end(np.append(old, old[-1] + 40 * 86_400), now) == old[-1]
    both = np.append(old, [old[-1] + 40 * 86_400, now + 1e7])
    assert valid_end(both, now) == old[-1]
    pause = np.append(old, old[-1] + 40 * 86_400 + hours[:50])
    assert valid_end(pause, now) == pause[-1], "a pause that many payments follow is a pause"
    assert valid_end(np.array([now + 1, now + 2]), now) == now + 2, "where all are, the log says when it is"
    early = np.append(old[0] - 4000 * 86_400, both)
    assert valid_span(early, now) == (old[0], old[-1]), "nor its beginning"
    assert valid_span(old, now) == (old[0], old[-1])


def test_a_payment_dated_far_back_is_left_out(
    tsa: Callable[..., Any], demo_run: Path, demo_log: Path, tmp_path: Path
) -> None:
    """Of more than thirty years by the week, most windows would be empty."""
    wrong = pl.read_parquet(demo_log).sort("paid_at").tail(3000)
    wrong = wrong.with_columns(
        paid_at=pl.when(pl.int_range(pl.len()) == 0).then(pl.datetime(1991, 5, 1)).otherwise("paid_at")
    )
    wrong.write_parquet(tmp_path / "wrong.parquet")
    made = tsa("monitor", demo_run / "bundle", tmp_path / "wrong.parquet", "--out", tmp_path / "m", "--replicates", 10)
    assert made.code in (0, 3), made.err
    assert "1 payments dated before" in made.err
    found = json.loads((tmp_path / "m" / "monitor.json").read_text())
    assert found["n"] == 2999


def test_a_payment_dated_ahead_is_left_out_and_told_of(
    tsa: Callable[..., Any], demo_run: Path, demo_log: Path, tmp_path: Path
) -> None:
    log = pl.read_parquet(demo_log).sort("paid_at")
    last = log.tail(1)
    wrong = last.with_columns(
        payment_id=pl.lit(10**9).cast(log.schema["payment_id"]), paid_at=pl.col("paid_at") + pl.duration(days=365)
    )
    pl.concat([log, wrong]).write_parquet(tmp_path / "wrong.parquet")
    found = {}
    for name, path in (("sound", demo_log), ("wrong", tmp_path / "wrong.parquet")):
        out = tmp_path / name
        made = tsa("monitor", demo_run / "bundle", path, "--from", "2025-04-20", "--out", out, "--replicates", 10)
        assert made.code in (0, 3), made.err
        found[name] = json.loads((out / "monitor.json").read_text())
        assert ("1 payments dated after" in made.err) == (name == "wrong"), made.err
    for key in ("as_of", "range", "n", "windows", "performance"):
        assert found["wrong"][key] == found["sound"][key], key
