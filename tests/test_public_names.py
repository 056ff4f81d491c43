"""The public namespace: what `tsa.__all__` says, all of it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import tsa

NAMES = {
    *("EventStore", "FraudClassifier", "Market", "Registry", "Scorer", "TSAError", "TrainingConfig"),
    *("evaluate", "fit", "prepare", "train"),
}


def test_the_names() -> None:
    assert set(tsa.__all__) == NAMES
    assert tsa.__all__ == sorted(tsa.__all__)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    value = getattr(tsa, name)
    assert callable(value)
    assert (value.__doc__ or "").strip()
    assert not isinstance(value, types.ModuleType)


def test_nothing_else_is_public() -> None:
    assert set(dir(tsa)) == NAMES
    scope: dict[str, object] = {}
    exec("from tsa import *", scope)
    assert set(scope) - {"__builtins__"} == NAMES
    modules = {name for name, value in vars(tsa).items() if isinstance(value, types.ModuleType)}
    assert {name for name in vars(tsa) if not name.startswith("_")} - modules - {"annotations"} <= NAMES


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'tsa' has no attribute 'predict'"):
        tsa.predict  # noqa: B018
    assert not hasattr(tsa, "compare")


def test_importing_does_nothing() -> None:
    """Neither torch nor Polars is loaded before a name that needs them is used; data come without torch."""
    code = (
        "import sys, tsa; assert not {'torch', 'polars'} & set(sys.modules), 'import tsa';"
        "tsa.Market, tsa.prepare, tsa.EventStore, tsa.TSAError; assert 'torch' not in sys.modules;"
        "tsa.Scorer; assert 'torch' in sys.modules; assert not {'lightgbm', 'typer'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
