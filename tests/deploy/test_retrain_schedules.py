"""The schedules of `tsa retrain` in deploy/, read as far as that goes without their programs."""

from __future__ import annotations

import ast
import configparser
import py_compile
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from tsa.cli import app
from tsa.cli.lifecycle.retrain import GATE_FAILED

DEPLOY = Path(__file__).parents[2] / "deploy"
COMMAND = "tsa retrain --quiet --promote --market market.toml --store store --registry registry incoming/*.parquet"


def unit(name: str) -> configparser.ConfigParser:
    read = configparser.ConfigParser(strict=True)
    read.optionxform = str  # type: ignore[assignment]
    read.read(DEPLOY / name)
    return read


def from_systemd() -> list[str]:
    service = unit("tsa-retrain.service")["Service"]
    assert int(service["SuccessExitStatus"]) == GATE_FAILED
    assert unit("tsa-retrain.timer")["Timer"]["OnCalendar"]
    return shlex.split(service["ExecStart"].removeprefix("/usr/local/bin/"))


def from_kubernetes() -> list[str]:
    job = yaml.safe_load((DEPLOY / "retrain-cronjob.yaml").read_text())["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    inner = job["jobTemplate"]["spec"]
    assert inner["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [GATE_FAILED]
    pod = inner["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"  # as a policy for failures asks
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    return [*container["command"], *(part for one in container["args"] for part in one.split("=", 1))]


def from_airflow(tmp_path: Path) -> list[str]:
    path = DEPLOY / "airflow_retrain.py"
    py_compile.compile(str(path), cfile=str(tmp_path / "dag.pyc"), doraise=True)
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    given = {
        word.arg: ast.literal_eval(word.value)
        for call in calls
        for word in call.keywords
        if word.arg and call.args == [] and word.arg in ("bash_command", "skip_on_exit_code")
    }
    assert given["skip_on_exit_code"] == GATE_FAILED
    return shlex.split(given["bash_command"])


@pytest.mark.parametrize("kind", ["systemd", "kubernetes", "airflow"])
def test_each_runs_the_command_with_options_that_it_has(kind: str, tmp_path: Path) -> None:
    reads = {"systemd": from_systemd, "kubernetes": from_kubernetes, "airflow": lambda: from_airflow(tmp_path)}
    command = reads[kind]()
    assert command == shlex.split(COMMAND)
    known = {name for option in get_command(app).commands["retrain"].params for name in option.opts}  # type: ignore[attr-defined]
    assert {part for part in command if part.startswith("--")} <= known


def test_the_watch_runs_the_command_with_options_that_it_has() -> None:
    service = unit("tsa-monitor.service")["Service"]
    words = shlex.split(service["ExecStart"].removeprefix("/usr/local/bin/tsa "))
    command = get_command(app).commands["monitor"]  # type: ignore[attr-defined]
    assert words[0] == "monitor"
    given = command.make_context("monitor", words[1:], resilient_parsing=True).params
    assert (given["every_hours"], given["last_days"], given["out"]) == (24, 14, Path("monitor"))
