"""What to do after an error: each class of error has a next step, and messages that have one are left alone."""

from __future__ import annotations

import inspect

import pytest

from tsa import errors
from tsa.cli.terminal.advice import NEXT, OTHERWISE, next_step

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.TSAError) and kind is not errors.TSAError
]


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_has_its_own_step(kind: type[errors.TSAError]) -> None:
    assert next_step(kind("width must be positive (got 0)"), "width must be positive (got 0)") == NEXT[kind]


def test_the_most_special_class_comes_first() -> None:
    kinds = list(NEXT)
    for at, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[at + 1 :]), kind


@pytest.mark.parametrize(
    "text",
    [
        "a search needs optuna, which is not installed: pip install 'tsa-fraud[tune]'",
        "run must be evaluated first: tsa evaluate run",
        "the time x must be dates (got 'a'): write times as 2025-01-31 12:00:00",
        "out holds a finished run; leave --unfinished out",
    ],
)
def test_a_message_with_advice_is_left_alone(text: str) -> None:
    assert next_step(errors.ConfigError(text), text) is None


def test_errors_of_the_system() -> None:
    assert next_step(OSError(13, "no"), "/x: Permission denied") == OTHERWISE


MISSING = "log: columns do not fit the market 'demo'\n  device: missing; did you mean `devise`?"


@pytest.mark.parametrize(
    ("text", "arguments", "step"),
    [
        (MISSING, ["score", "bundle", "log.csv"], "add the columns to the log: the market 'demo' needs them"),
        (MISSING, ["prepare", "--market", "demo", "log.csv"], NEXT[errors.DataError]),
        (MISSING, ["check", "-m", "demo", "log.csv"], "correct the log or the market file"),
        ("amount must be a number", ["score", "bundle", "log.csv"], "correct the log"),
        ("log: must hold at least one row, but it is empty", ["init", "log.csv"], "give a log with rows"),
    ],
)
def test_the_step_for_a_log_fits_the_command(text: str, arguments: list[str], step: str) -> None:
    assert next_step(errors.DataError(text), text, arguments) == step


def test_a_guess_of_what_was_meant_is_advice() -> None:
    text = "run is not a bundle; did you mean run/bundle?"
    assert next_step(errors.BundleError(text), text) is None


def test_a_setting_without_its_section() -> None:
    step = "write training.epochs, which is a setting of the training"
    market = "demo: 1 finding\n  epochs: unknown key (from --set epochs=3)"
    assert next_step(errors.MarketError(market), market, ["run"]) == step
    other = "this command takes training.KEY and model.KEY settings only (got epochs=3)"
    assert next_step(errors.ConfigError(other), other, ["train"]) == step
