"""The settings of a server are declared once: options of `tsa serve`, environment variables and defaults come from there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import tsa.serving
from tsa.cli.app import app
from tsa.errors import ConfigError
from tsa.integrations.sagemaker.serving import OWN, _settings, request_bounds
from tsa.serving.settings import ServeSettings

DEPLOYING = Path(__file__).parents[2] / "docs" / "how-to" / "deploying.md"
VARIABLES = {
    "TSA_HISTORY": "history",
    "TSA_NEW_STORE": "new_store",
    "TSA_ALLOW_EVICTION": "allow_eviction",
    "TSA_ENGINE": "engine",
    "TSA_PRECISION": "precision",
    "TSA_THREADS": "threads",
    "TSA_MAX_LIST": "max_list",
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *OWN, "SAGEMAKER_MAX_PAYLOAD_IN_MB"):
        monkeypatch.delenv(name, raising=False)


def served(monkeypatch: pytest.MonkeyPatch, *words: str) -> ServeSettings:
    """What `tsa serve` would run with."""
    seen: list[ServeSettings] = []
    monkeypatch.setattr(tsa.serving, "run", seen.append)
    outcome = CliRunner().invoke(app, ["serve", "bundle", *words])
    assert outcome.exit_code == 0, outcome.output
    return seen[0]


def test_without_options_the_command_has_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(monkeypatch) == ServeSettings(bundle=Path("bundle"))


def test_each_option_sets_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {
        "--history": ("history", "sqlite:///x.db"),
        "--host": ("host", "0.0.0.0"),
        "--port": ("port", 9000),
        "--workers": ("workers", 3),
        "--engine": ("engine", "torch"),
        "--precision": ("precision", "bf16"),
        "--threads": ("threads", 2),
        "--shadow": ("shadow", Path("other")),
        "--shadow-file": ("shadow_file", Path("lines.jsonl")),
        "--challenger": ("challenger", Path("second")),
        "--challenger-share": ("challenger_share", 0.25),
        "--split-by": ("split_by", "card"),
        "--challenger-timeout-ms": ("challenger_timeout_ms", 90.0),
        "--decision-log": ("decision_log", Path("answers")),
        "--queue-over": ("queue_over", "probability=0.2"),
        "--queue-lease-minutes": ("queue_lease_minutes", 3.0),
        "--queue-later-minutes": ("queue_later_minutes", 7.0),
        "--queue-webhook": ("queue_webhook", "https://cases.example/new"),
        "--queue-webhook-secret-env": ("queue_webhook_secret_env", "C"),
        "--decision-flush": ("decision_flush", 3.0),
        "--decision-rotate": ("decision_rotate", 60.0),
        "--max-batch": ("max_batch", 8),
        "--batch-wait-ms": ("batch_wait_ms", 1.5),
        "--max-queue": ("max_queue", 9),
        "--max-queue-wait-ms": ("max_queue_wait_ms", 7.0),
        "--max-list": ("max_list", 10),
        "--max-bytes": ("max_bytes", 1000),
        "--rate": ("rate", 5.0),
        "--token-env": ("token_env", ("A",)),
        "--token-file": ("token_files", (Path("t"),)),
        "--admin-token-env": ("admin_token_env", ("B",)),
        "--admin-token-file": ("admin_token_files", (Path("u"),)),
        "--certificate": ("ssl_certificate", Path("c.pem")),
        "--key": ("ssl_key", Path("k.pem")),
        "--client-ca": ("ssl_client_ca", Path("ca.pem")),
        "--public-key": ("public_key", Path("p.pem")),
        "--drain-seconds": ("drain_seconds", 4.0),
        "--set": ("overrides", ("serving.explain=false",)),
    }
    flags = {
        "--new-store": "new_store",
        "--allow-eviction": "allow_eviction",
        "--allow-unevaluated": "allow_unevaluated",
        "--decision-log-sync": "decision_log_sync",
        "--queue": "queue",
    }
    given: list[str] = list(flags)
    for option, (_, value) in words.items():
        given += [option, str(value[0] if isinstance(value, tuple) else value)]
    expected: dict[str, Any] = dict(words.values()) | dict.fromkeys(flags.values(), True)
    assert served(monkeypatch, *given) == ServeSettings(bundle=Path("bundle"), **expected)
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {word for p in command.params if p.param_type_name == "option" for word in p.opts} - {"--help"}
    # instead of a bundle: tests/registry/test_following.py
    elsewhere = {"--bundle-from", "--bundle-cache", "--shadow-from"}
    assert options == {*words, *flags, *elsewhere}, "an option that this test does not try"


def test_variables_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServeSettings.variables() == VARIABLES
    monkeypatch.setenv("TSA_THREADS", "3")
    monkeypatch.setenv("TSA_NEW_STORE", "1")
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "9001")
    assert served(monkeypatch).threads == 3
    assert served(monkeypatch, "--threads", "4").threads == 4
    made = _settings(Path("bundle"))
    assert (made.threads, made.new_store, made.port, made.host) == (3, True, 9001, "0.0.0.0")
    assert request_bounds() == {"max_bytes": 6 * 2**20, "max_list": 1000}
    text = DEPLOYING.read_text()
    assert [name for name in (*VARIABLES, *OWN) if f"`{name}`" not in text] == []


def test_a_variable_that_breaks_a_rule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSA_MAX_LIST", "0")
    with pytest.raises(ConfigError, match=r"--max-list: must be .* 1 \(got '0', from TSA_MAX_LIST\)"):
        request_bounds()
    monkeypatch.setenv("TSA_MAX_LIST", "10")
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "six")
    with pytest.raises(ConfigError, match="SAGEMAKER_MAX_PAYLOAD_IN_MB must be a whole number"):
        request_bounds()


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ServeSettings.make(
            {"bundle": "b", "port": 70_000, "threads": "two", "batch_wait_ms": float("nan"), "worker": 1}
        )
    text = str(caught.value)
    assert all(f"--{name}: " in text for name in ("port", "threads", "batch-wait-ms"))
    assert "worker: unknown key; did you mean `workers`?" in text


def test_settings_go_to_other_processes_whole() -> None:
    settings = ServeSettings.make({"bundle": "b", "token_files": ["x"], "rate": 2})
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert settings.token_files == (Path("x"),)


def test_an_address_with_a_password_is_not_shown() -> None:
    webhook = {"queue": True, "decision_log": "log", "queue_webhook": "https://host/services/pass-word"}
    made = ServeSettings.make({"bundle": "b", "history": "redis://:pass-word@host/0", **webhook})
    assert "pass-word" not in repr(made)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"challenger_share": 0.3}, "--challenger-share needs --challenger"),
        ({"split_by": "card"}, "--split-by needs --challenger"),
        ({"shadow_file": "x.jsonl"}, "--shadow-file needs --shadow or --shadow-from"),
        ({"ssl_client_ca": "ca.pem"}, "--client-ca needs --certificate and --key"),
        ({"decision_log_sync": True}, "--decision-log-sync needs --decision-log FOLDER"),
    ],
)
def test_options_that_need_another_one(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}"):
        ServeSettings.make({"bundle": "b", **changes})
