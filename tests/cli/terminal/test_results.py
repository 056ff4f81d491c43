"""--json on every command: one document on stdout, nothing else; and what an interrupted command leaves."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tsa.cli import app
from tsa.cli.terminal import results

Tsa = Callable[..., Any]
WITHOUT_RESULT = {"serve": "a server runs until it is stopped"}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path), command
    for name, sub in (below or {}).items():
        yield from commands(sub, (*path, name))


ALL = dict(commands(get_command(app)))


@pytest.mark.parametrize("name", ALL)
def test_every_command_reports(name: str) -> None:
    options = {text for parameter in ALL[name].params for text in parameter.opts}
    assert ("--json" in options) == (name not in WITHOUT_RESULT)
    if name not in WITHOUT_RESULT:
        function = inspect.unwrap(ALL[name].callback)
        called = inspect.getsource(function) + inspect.getsource(inspect.getmodule(function))  # type: ignore[arg-type]
        assert "result(" in called


@pytest.fixture(scope="module")
def place(demo_run: Path, demo_log: Path, demo_market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, a run that may be changed, keys and a store."""
    made = tmp_path_factory.mktemp("json")
    shutil.copytree(demo_run, made / "run")
    shutil.copy(demo_log, made / "log.parquet")
    shutil.copy(demo_market, made / "my.toml")
    return made


CASES = [
    ("markets list", [], "demo"),
    ("markets show", ["cards"], "market"),
    ("doctor", [], "findings"),
    ("simulate", ["--payments", "300", "--out", "s.csv"], "frauds"),
    ("init", ["log.parquet", "--yes"], "market"),
    ("check", ["log.parquet", "--market", "my.toml"], "columns"),
    ("prepare", ["log.parquet", "--market", "my.toml", "--out", "store"], "rows_read"),
    ("evaluate", ["run", "--replicates", "5"], "report"),
    ("thresholds", ["run", "--replicates", "5"], "best"),
    ("calibrate", ["run/bundle", "log.parquet", "--out", "calibrated"], "frauds"),
    ("score", ["run/bundle", "log.parquet", "--out", "scores.parquet"], "payments"),
    ("explain", ["run/bundle", "log.parquet", "--id", "17"], "explanations"),
    ("monitor", ["run/bundle", "log.parquet", "--replicates", "5"], "report"),
    ("bundle show", ["run/bundle"], "sha256"),
    ("bundle pack", ["run/bundle", "--out", "packed.tar.gz"], "files"),
    ("bundle keygen", ["--private", "private.pem", "--public", "public.pem"], "private"),
    ("bundle sign", ["run/bundle", "--key", "private.pem"], "signed_by"),
    ("bundle verify", ["run/bundle", "--key", "public.pem"], "valid"),
    ("bundle set-thresholds", ["calibrated", "--threshold", "review=0.98", "--score", "raw_score"], "decisions"),
    ("bundle diff", ["run/bundle", "calibrated"], "weights"),
    ("compare-bundles", ["run/bundle", "calibrated", "log.parquet", "--replicates", "5"], "metrics"),
    ("registry create", ["--registry", "registry"], "registry"),
    ("registry publish", ["run/bundle", "--registry", "registry"], "sha256"),
    ("registry list", ["--registry", "registry"], "aliases"),
    ("history load", ["run/bundle", "log.parquet", "--history", "sqlite:///h.db"], "added"),
    ("history show", ["--history", "sqlite:///h.db"], "keys"),
    ("history prune", ["--history", "sqlite:///h.db", "--days", "100000"], "payments"),
]


def test_one_document_and_nothing_else(
    tsa: Tsa, place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(place)
    for name, arguments, key in CASES:
        done = tsa(*name.split(), *arguments, "--json")
        assert done.code in (0, 3), (name, done.err)
        document = json.loads(done.out)
        assert key in (document if isinstance(document, dict) else json.dumps(document)), (name, done.out[:500])


def test_an_error_leaves_stdout_empty(tsa: Tsa, tmp_path: Path) -> None:
    done = tsa("bundle", "show", tmp_path / "nothing", "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: BundleError")


def test_text_comes_back_after_json(tsa: Tsa) -> None:
    assert tsa("markets", "list", "--json").out.startswith("[")
    assert "accounts" in tsa("markets", "list").out


def test_an_interrupt_is_one_line_that_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        results.remains("half of it stays")
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        results.reporting(stopped)()
    assert end.value.code == 130
    assert capsys.readouterr() == ("", "interrupted: half of it stays\n")


def test_no_color_and_width(tsa: Tsa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in tsa("markets", "list").out
