"""The commands, as a user runs them: what they write, print and answer, and how they refuse."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsa import cli
from tsa.cli import console
from tsa.config.overrides import Overrides
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError

COMMANDS = ("simulate", "prepare", "train", "evaluate", "compare", "score", "run")
Tsa = Callable[..., Any]


def refused(outcome: Any, text: str) -> str:
    """Exit code 2, nothing but one paragraph on stderr, and in it `text` (a pattern)."""
    assert outcome.code == 2, (outcome.code, outcome.err)
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert re.match(r"error: [A-Z]\w+Error: |error: /", outcome.err), outcome.err
    assert "\n\n" not in outcome.err.strip()
    assert re.search(text, outcome.err), outcome.err
    return str(outcome.err)


def test_run_does_the_whole_job(demo_outcome: tuple[Path, Any]) -> None:
    run, outcome = demo_outcome
    assert outcome.code == 0, outcome.err
    for text in ("ROC AUC", "average precision", "precision@", "recall at 1 %", "TSA", "LightGBM"):
        assert text in outcome.out
    for text in ("the model", "network alone", "trees alone"):
        assert text in outcome.out
    report = json.loads((run / "report.json").read_text())
    assert f"{report['evaluation']['metrics']['roc_auc']['value']:.3f}" in outcome.out
    assert f"{report['comparison']['evaluation']['metrics']['roc_auc']['value']:.3f}" in outcome.out
    assert report["comparison"]["summary"] in outcome.out, "in one line, however long"
    assert outcome.out.endswith(f"report: {run / 'report.html'}\n")
    wanted = {"bundle", "store", "run.json", "metrics.jsonl", "scores.parquet", "report.json", "report.html", "run.log"}
    wanted |= {"checkpoints", "curves.png", "validation_scores.parquet", "calibration_scores.parquet"}
    assert {path.name for path in run.iterdir()} == wanted | {"comparison.json"}
    log = (run / "run.log").read_text()
    for text in ("read 6000 rows", "epoch 1 of 2", "scoring the test range", "training LightGBM"):
        assert text in log
    assert report["market"]["history"][0]["length"] == 8, "--set reaches the market"
    assert report["model"]["training"]["batch_size"] == 64, "and the training"
    assert report["model"]["config"]["width"] == 16, "and the model"


def test_step_by_step(tsa: Tsa, demo_log: Path, demo_market: Path, small: tuple[str, ...], tmp_path: Path) -> None:
    """The same in single commands, each with its log file."""
    store, run = tmp_path / "store", tmp_path / "run"
    short = ("--set", "history.0.length=4", "--set", "history.1.length=4")
    made = tsa("prepare", "--market", demo_market, *short, demo_log, "--out", store)
    assert made.code == 0, made.err
    assert "store of 6,000 payments" in made.out
    for split in ("train", "validation", "calibration", "test"):
        assert split in made.out
    assert EventStore.open(store).market.history[0].length == 4
    assert "read 6000 rows" in (tmp_path / "store.log").read_text()

    made = tsa("train", store, "--out", run, *small, "--set", "training.epochs=1")
    assert (made.code, made.out) == (0, f"bundle: {run / 'bundle'}\n"), made.err
    assert "epoch 1 of 1" in (run / "train.log").read_text()
    assert json.loads((run / "run.json").read_text())["training"]["epochs"] == 1, "the last --set counts"

    made = tsa("evaluate", run, "--segment", "country", "--threshold", "0.25", "--replicates", 10)
    assert made.code == 0, made.err
    assert "LightGBM" not in made.out
    assert f"report: {run / 'report.html'}" in made.out
    report = json.loads((run / "report.json").read_text())
    assert report["evaluation"]["threshold"] == 0.25
    assert "country" in report["evaluation"]["segments"]
    assert "scoring the test range" in (run / "evaluate.log").read_text()

    made = tsa("compare", run, "--seed", 1, "--replicates", 10)
    assert made.code == 0, made.err
    assert "LightGBM" in made.out
    assert "training LightGBM" in (run / "compare.log").read_text()
    assert json.loads((run / "report.json").read_text())["comparison"]["params"]["seed"] == 1


def test_score(tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "scores.parquet"
    made = tsa("score", demo_run / "bundle", demo_log, "--out", out)
    assert (made.code, made.out) == (0, f"{out}: 6,000 payments\n"), made.err
    scores = pl.read_parquet(out)
    assert scores.columns == ["id", "raw_score", "percentile"], "600 payments are too few for a probability"
    assert "note: There is no probability score: a probability needs at least 1,000 payments" in made.err
    assert len(scores) == 6000
    assert out.with_name("scores.parquet.log").is_file()

    part = tmp_path / "part.csv"
    window = ("--from", "2025-04-16", "--to", "2025-04-20T12:00:00Z")
    assert tsa("score", demo_run / "bundle", demo_log, *window, "--out", part).code == 0
    log = pl.read_parquet(demo_log).sort("paid_at", "payment_id")
    inside = (pl.col("paid_at") >= pl.datetime(2025, 4, 16)) & (pl.col("paid_at") < pl.datetime(2025, 4, 20, 12))
    found = pl.read_csv(part)
    assert found["id"].to_list() == log.filter(inside)["payment_id"].to_list()
    both = found.join(scores, on="id", suffix="_whole")
    assert (both["raw_score"] - both["raw_score_whole"]).abs().max() <= 1e-6, "histories are those of the whole log"

    refused(
        tsa("score", demo_run / "bundle", demo_log, "--from", "yesterday", "--out", part),
        r"start \(--from\) must be a time",
    )
    refused(tsa("score", demo_run, demo_log, "--out", part), "is not a bundle; did you mean .*/bundle")
    (tmp_path / "folder.csv").mkdir()
    refused(tsa("score", demo_run / "bundle", demo_log, "--out", tmp_path / "folder.csv"), "folder.csv must be a file")
    other = tsa("score", demo_run / "bundle", demo_log, "--out", tmp_path / "scores.csv.gz")
    refused(other, r"out must end in .parquet or .csv \(got scores.csv.gz\)")
    assert not (tmp_path / "scores.csv.gz").exists()
    assert pl.read_csv(part).equals(found), "what was there is still there"


def test_quarantine(tsa: Tsa, demo_log: Path, demo_market: Path, demo_run: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(demo_log)
    bad = pl.int_range(pl.len()).is_in([5, 77])
    spoiled = log.with_columns(amount=pl.when(bad).then(float("inf")).otherwise(pl.col("amount")))
    spoiled.write_parquet(tmp_path / "log.parquet")
    arguments = ("prepare", "--market", demo_market, tmp_path / "log.parquet", "--out", tmp_path / "store")
    message = refused(tsa(*arguments), "2 of 6,000 rows break a rule")
    assert all(str(i) in message for i in log.filter(bad)["payment_id"])
    assert not (tmp_path / "store").exists()
    made = tsa(*arguments, "--quarantine", tmp_path / "bad.parquet")
    assert made.code == 0, made.err
    assert len(EventStore.open(tmp_path / "store")) == 5998
    assert pl.read_parquet(tmp_path / "bad.parquet")["payment_id"].to_list() == log.filter(bad)["payment_id"].to_list()
    scoring = ("score", demo_run / "bundle", tmp_path / "log.parquet", "--out", tmp_path / "scores.parquet")
    refused(tsa(*scoring), "rows break a rule")
    assert tsa(*scoring, "--quarantine", tmp_path / "bad2.parquet").code == 0
    assert len(pl.read_parquet(tmp_path / "scores.parquet")) == 5998
    assert len(pl.read_parquet(tmp_path / "bad2.parquet")) == 2


def test_simulate(tsa: Tsa, tmp_path: Path) -> None:
    for name in ("a.parquet", "b.csv.gz"):
        made = tsa("simulate", "--payments", 300, "--days", 5, "--truth", "--seed", 3, "--out", tmp_path / name)
        assert made.code == 0, made.err
        assert made.out.startswith(f"{tmp_path / name}: 300 payments, ")
    assert len(pl.read_parquet(tmp_path / "a.parquet")) == 300
    assert "fraud_kind" in pl.read_csv(tmp_path / "b.csv.gz").columns
    refused(tsa("simulate", "--out", tmp_path / "a.xlsx"), "out must end in")
    refused(tsa("simulate", "--out", tmp_path / "c.csv", "--payments", 0), r"payments: must be .* \(got 0\)")


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        (["event.tim=x"], "event.tim: unknown key; did you mean `time`"),
        (["novalue"], "--set must be KEY=VALUE"),
        (["=3"], "--set must be KEY=VALUE"),
        (["label.delay_days=soon"], "label.delay_days"),
        (["label.delay_days=-1"], "label.delay_days"),
        (["history.7.length=3"], "must be a position from 0 to 1"),
        (["history.0.length=0"], r"\[\[history\]\] 'customer': length: must be at least 2 \(got 0"),
        (['split.test=["2025-04-10", "2025-05-01"]'], "must start 7 days .* so not before 2025-04-16"),
        (["split.fractions=[1, 2]"], "split"),
        (["training.epochs=1"], r"takes the market's settings only [(]got training.epochs=1"),
    ],
)
def test_a_bad_set_of_the_market(
    tsa: Tsa, demo_log: Path, demo_market: Path, tmp_path: Path, sets: list[str], text: str
) -> None:
    arguments = [argument for value in sets for argument in ("--set", value)]
    refused(tsa("prepare", "--market", demo_market, *arguments, demo_log, "--out", tmp_path / "store"), text)
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        (["training.epochs=none"], r"training.epochs: must be a whole number [(]got 'none'"),
        (["training.epoch=3"], "training.epoch: unknown key; did you mean `epochs`"),
        (["training.learning_rate=-1"], "training.learning_rate"),
        (["training.train_on=[]"], "training.train_on"),
        (["training.batch_size=1000000"], "an epoch must fill a batch"),
        (["model.widht=3"], "widht"),
        (["model.dropout=abc"], "dropout"),
        (["model.name=abc"], "model.name must not be set"),
        (["model.n_categorical=3"], "model.n_categorical must not be set"),
        (["event.id=x"], r"takes training.KEY and model.KEY settings only [(]got event.id=x"),
    ],
)
def test_a_bad_set_of_the_training(tsa: Tsa, demo_run: Path, tmp_path: Path, sets: list[str], text: str) -> None:
    arguments = [argument for value in sets for argument in ("--set", value)]
    refused(tsa("train", demo_run / "store", "--out", tmp_path / "run", *arguments), text)


def test_what_is_missing(tsa: Tsa, demo_log: Path, demo_market: Path, demo_run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    refused(tsa("prepare", "--market", tmp_path / "no.toml", demo_log, *out), r"no\.toml: no such file")
    sets = ("--settings", tmp_path / "no.toml")
    refused(tsa("run", "--market", demo_market, demo_log, *sets, *out), r"--settings .*no\.toml: no such file: correct")
    refused(tsa("prepare", "--market", demo_market, tmp_path / "no.parquet", *out), "no such file or folder")
    pl.read_parquet(demo_log).rename({"device": "devise"}).write_parquet(tmp_path / "log.parquet")
    refused(
        tsa("prepare", "--market", demo_market, tmp_path / "log.parquet", *out),
        "device: missing; did you mean `devise`",
    )
    refused(tsa("train", tmp_path / "no-store", *out), r"no-store is not a store \(no such folder\): correct the path")
    refused(
        tsa("train", demo_run / "store", *out, "--preset", "best"), r"preset must be one of .* [(]got preset='best'"
    )
    refused(
        tsa("prepare", "--market", demo_market, demo_log), "--out is missing: give the folder of the store to write"
    )
    refused(tsa("prepare", demo_log, *out, "--outcomes", "x.csv"), "--outcomes needs --append STORE")
    url = ("--out", "ftp://host/store")
    refused(tsa("prepare", "--market", demo_market, demo_log, *url), r"s3://BUCKET/FOLDER .*got ftp://host/store")
    refused(tsa("train", demo_run / "store", *out, "--until", "2025"), "--until needs --refit RUN")
    refused(tsa("train", *out, "--refit", tmp_path / "nothing"), "nothing is not a run folder")
    both = ("--resume", "--overwrite")
    refused(tsa("run", "--market", demo_market, demo_log, *out, *both), "cannot be given together")
    missing = f"sqlite:///{tmp_path / 'none.db'}"
    refused(tsa("history", "show", "--history", missing), "there is no such store: correct --history")
    refused(tsa("monitor", demo_run / "bundle", "--out", tmp_path / "m"), "give logs, or --decisions FOLDER")
    refused(
        tsa("score", tmp_path / "no-bundle", demo_log, *out),
        "no-bundle is not a bundle: no such folder or file; give a bundle",
    )
    assert not (tmp_path / "no-store").exists()


def test_a_market_file_that_breaks_a_rule(tsa: Tsa, demo_log: Path, demo_market: Path, tmp_path: Path) -> None:
    for broken, text in (("delay_days = 7", "delay_day = 7"), ('name = "demo"', 'name = "de mo"')):
        path = tmp_path / "market.toml"
        path.write_text(demo_market.read_text().replace(broken, text, 1))
        key = text.split(" ")[0]
        refused(tsa("run", "--market", path, demo_log, "--out", tmp_path / "run"), rf"market\.toml: [\s\S]*{key}")
    path.write_text("name = ")
    refused(tsa("run", "--market", path, demo_log, "--out", tmp_path / "run"), r"market\.toml: is not valid TOML")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_what_is_no_run(tsa: Tsa, demo_run: Path, tmp_path: Path, command: str) -> None:
    for path in (tmp_path / "nowhere", demo_run / "store", demo_run / "run.json"):
        refused(tsa(command, path), "must be the folder of a run")
    assert not (tmp_path / "nowhere").exists(), "asking does not make one"
    assert not list((demo_run / "store").glob("*.log"))


def test_out_is_something_else(
    tsa: Tsa, demo_log: Path, demo_market: Path, demo_run: Path, small: tuple[str, ...], tmp_path: Path
) -> None:
    """A file, a folder of other things, a folder in a file: refused before any work, and left as it is."""
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    file.write_text("precious")
    prepare = ("prepare", "--market", demo_market, demo_log)
    run = ("run", "--market", demo_market, demo_log, *small)
    train = ("train", demo_run / "store", *small)
    for command in (run, train):
        refused(tsa(*command, "--out", folder), r"must be empty or contain a run \(it contains letter\.txt\)")
        refused(tsa(*command, "--out", file), "must be a folder or not exist")
        refused(tsa(*command, "--out", file / "below"), "file")
    refused(tsa(*prepare, "--out", folder), r"must be empty or contain a manifest\.json")
    refused(tsa(*prepare, "--out", file), "must be a folder or not exist")
    refused(tsa(*prepare, "--out", file / "below"), "file")
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    assert file.read_text() == "precious"


def test_endings_are_checked_before_any_work(tsa: Tsa, demo_log: Path, demo_run: Path, tmp_path: Path) -> None:
    """A file of another kind is not replaced, and no history store is made."""
    other, bundle = tmp_path / "other.parquet", demo_run / "bundle"
    other.write_text("precious")
    for ending, command in (
        (".toml", ("init", demo_log, "--yes")),
        (".onnx", ("export", bundle)),
        (".json", ("sagemaker", "pipeline")),
    ):
        refused(tsa(*command, "--out", other), rf"--out must end in \{ending} \(got other\.parquet\)")
    assert other.read_text() == "precious"
    for command in (("export",), ("replay", "--bundle", bundle)):
        refused(
            tsa("decisions", command[0], tmp_path / "entries", *command[1:], "--out", tmp_path / "x.txt"), "must end in"
        )
    store = f"sqlite:///{tmp_path}/h.db"
    refused(
        tsa("history", "load", bundle, demo_log, "--history", store, "--quarantine", tmp_path / "bad.csv"),
        r"quarantine must end in \.parquet",
    )
    assert not (tmp_path / "h.db").exists()


def test_out_is_where_one_stands(
    tsa: Tsa, demo_log: Path, demo_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.txt").write_text("dear")
    refused(tsa("prepare", "--market", demo_market, demo_log, "--out", "."), "must be empty or contain a manifest")


def test_quiet(tsa: Tsa, own_run: Path, demo_log: Path, tmp_path: Path) -> None:
    """Results alone; what else there is to say stands in the log file."""
    unlabelled = tmp_path / "log.parquet"
    pl.read_parquet(demo_log).drop("is_fraud").write_parquet(unlabelled)
    command = ("score", own_run / "bundle", unlabelled, "--out", tmp_path / "scores.parquet")
    loud, quiet = tsa(*command), tsa(*command, "-q")
    assert "note: the log has no outcomes (is_fraud)" in loud.err
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out == loud.out == f"{tmp_path / 'scores.parquet'}: 6,000 payments\n"
    assert (tmp_path / "scores.parquet.log").read_text().count("has no outcomes") == 2
    made = tsa("evaluate", own_run, "--quiet", "--replicates", 10)
    assert (made.code, made.err) == (0, "")
    assert "report: " in made.out
    assert refused(
        tsa("score", own_run / "bundle", "no.csv", "-q", "--out", tmp_path / "x.csv"), "no such file or folder"
    )


def test_markup_in_a_name_is_only_a_name(tsa: Tsa, tmp_path: Path) -> None:
    out = tmp_path / "[bold]log[/].csv"
    assert tsa("simulate", "--payments", 50, "--days", 2, "--out", out).out.startswith(f"{out}: 50 payments")
    refused(
        tsa("prepare", "--market", tmp_path / "[red]m.toml", out, "--out", tmp_path / "s"), r"\[red\]m\.toml: no such"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(tsa: Tsa, command: str) -> None:
    made = tsa(command, "--help")
    assert made.code == 0
    assert "Usage: " in made.out
    assert "--quiet" in made.out
    assert len(made.out.split()) > 40


def test_help_names_every_command(tsa: Tsa) -> None:
    for made in (tsa("--help"), tsa()):
        assert all(command in made.out + made.err for command in COMMANDS)
    assert tsa("--help").code == 0


@pytest.mark.parametrize("arguments", [["train"], ["prepare", "x.csv"], ["frobnicate"], ["train", "s", "--nope"], []])
def test_bad_usage(tsa: Tsa, arguments: list[str]) -> None:
    made = tsa(*arguments)
    assert made.code == 2
    assert "Traceback" not in made.err


def test_a_bug_is_one(
    tsa: Tsa, demo_log: Path, demo_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw keeps its traceback (exit code 1), which the log file has as well."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(cli.data, "print_store", broken)
    with pytest.raises(ZeroDivisionError):
        tsa("prepare", "--market", demo_market, demo_log, "--out", tmp_path / "store")
    with pytest.raises(ZeroDivisionError), console.command_session(True, tmp_path / "x.log"):
        broken()
    assert "ZeroDivisionError: unforeseen" in (tmp_path / "x.log").read_text()


def test_a_refusal_stands_in_the_log(tmp_path: Path) -> None:
    before = list(console.logger.handlers)  # a server that another test ran here has set its own
    with pytest.raises(ConfigError), console.command_session(True, tmp_path / "x.log"):
        raise ConfigError("width must be even (got width=3)")
    assert "ConfigError: width must be even (got width=3)" in (tmp_path / "x.log").read_text()
    assert console.logger.handlers == before


def test_settings_are_sorted_by_whom_they_are_for(demo_market: Path) -> None:
    texts = ["training.seed=4", "model.width=8", "label.delay_days=3", 'model.norm="pre"']
    found = Overrides.read(texts, demo_market)
    assert found.training == {"seed": 4}
    assert found.model == {"width": 8, "norm": "pre"}
    assert found.market is not None
    assert found.market.label.delay_days == 3
    assert Overrides.read(None).market is None


# What only another process can show.


def python(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, **settings
    )


def test_python_dash_m_and_a_plain_pipe(tmp_path: Path) -> None:
    """An error shows in a pipe too, in one line however long the path, and without colours."""
    deep = tmp_path / ("a-long-name-" * 8) / "market.toml"
    done = python("-m", "tsa", "prepare", "--market", deep, "log.csv", "--out", tmp_path / "store")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: MarketError: {deep}: no such file; tsa markets list names the examples\n"


def test_preparing_does_not_load_torch(demo_log: Path, demo_market: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tsa.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = python("-c", code, "prepare", "--market", demo_market, demo_log, "--out", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "False\n"
    assert (tmp_path / "store" / "manifest.json").is_file()


def test_an_interrupt_while_the_program_loads() -> None:
    code = (
        "import os, signal, sys\nsys.argv[0] = 'tsa'\n"
        "class Finder:\n    def find_spec(self, name, *_):\n"
        "        if name == 'tsa.cli.train':\n            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\nimport tsa.cli"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (130, "")


def test_an_interrupt_leaves_no_traceback(demo_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = ("--set", "training.epochs=10000", "--set", "training.batch_size=64", "--set", "model.width=16")
    command = [sys.executable, "-m", "tsa", "train", demo_run / "store", "--out", run, *sets]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 50
    while time.monotonic() < deadline and not (run / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert err.startswith("note: stopped by a signal: a checkpoint was saved in epoch ")
    assert err.count("\n") == 1
    assert not (run / "bundle").exists()
    evaluated = subprocess.run(
        [sys.executable, "-m", "tsa", "evaluate", str(run), "--unfinished", "-q"], capture_output=True, text=True
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "This run is not finished: its model is that of " in evaluated.stdout
    assert (run / "report.html").exists()
