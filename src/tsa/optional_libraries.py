"""Optional libraries: check whether they are installed, and say how to install them."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tsa.errors import ConfigError
from tsa.text import brief


def is_installed(module: str) -> bool:
    """Whether a top-level module is installed. It is not imported."""
    if module in sys.modules:  # `find_spec` refuses modules without a spec
        return sys.modules[module] is not None
    return find_spec(module) is not None


def need(what: str, *modules: str, extra: str) -> None:
    """Raise an error unless optional libraries are installed. Nothing is imported, so it is fast enough to check early.

    Args:
        what: What needs it, as the subject of a sentence: `a search`, `training.tensorboard`.
        modules: Names of top-level modules.
        extra: The extra of this package that installs them.

    Raises:
        ConfigError: With the command that installs them.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        names = " and ".join(missing)
        raise ConfigError(f"{what} needs {names}, which {verb} not installed: {_install(extra)}")


def imported(what: str, module: str, extra: str) -> Any:
    """Import a library and return its top-level module. The arguments are those of `need`.

    Raises:
        ConfigError: If the library is not installed, or cannot be imported.
    """
    need(what, module, extra=extra)
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{what} needs {module}, which cannot be imported ({brief(error)}): {_install(extra)}"
        ) from error


def bound_mlflow() -> None:
    """Limit the time of MLflow's calls, unless its variables do: by default one may take half an hour."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results


def _install(extra: str) -> str:
    return f"pip install 'tsa-fraud[{extra}]'"
