"""A run as MLflow keeps it: settings, figures, how it ended. Every call is bounded, and none is made in training's own thread.

MLflow's client is used by itself: its active run would be ended when the process ends, with waits of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tsa.errors import ConfigError
from tsa.training.distributed import bound_mlflow, mlflow_experiment, mlflow_run
from tsa.training.trackers.queue import USER, shown

MAX_PARAMETERS = 100
"""In one call."""
DEFAULT = "0"
"""The experiment of runs for which none is named."""
MISSING = "RESOURCE_DOES_NOT_EXIST"


class MLflowRun:
    """A run of the experiment that MLflow's own variables name; one that is resumed goes on under its number."""

    def __init__(
        self, uri: str, out: Path, run: dict[str, Any], figures: Callable[[Mapping[str, Any]], dict[str, float]]
    ):
        """run: the account of the run, in which its number is kept. ConfigError where MLflow cannot be reached."""
        self._client, self._figures = _client(uri), figures
        try:
            self._id, known = self._opened(out, run)
            run["mlflow_run"] = self._id
            settings = {f"{room}.{key}": value for room in ("training", "model") for key, value in run[room].items()}
            # what was logged cannot be changed; of a run that goes on, the settings that may differ make no difference
            self._log_settings({key: value for key, value in settings.items() if key not in known})
        except Exception as error:
            raise _unreachable(uri, error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Log the figures of an epoch."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, record["epoch"]) for name, value in self._figures(record).items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, well: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, "FINISHED" if well else "FAILED")

    def _opened(self, out: Path, run: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
        """The number of the run, and the settings that it has already."""
        from mlflow.tracking.context.registry import resolve_tags

        found = run.get("mlflow_run") or mlflow_run()
        if found and (known := _unless_missing(lambda: self._client.get_run(found))) is not None:
            self._client.update_run(found, status="RUNNING")
            return found, known.data.params
        created = self._client.create_run(_experiment(self._client), run_name=out.resolve().name, tags=resolve_tags())
        return created.info.run_id, {}

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in settings.items()]
        for first in range(0, len(params), MAX_PARAMETERS):
            self._client.log_batch(self._id, params=params[first : first + MAX_PARAMETERS])


def refuse_unreachable(uri: str) -> None:
    """Raise ConfigError where MLflow does not answer: before anything is written."""
    client = _client(uri)
    try:
        _unless_missing(lambda: client.get_experiment(DEFAULT))
    except Exception as error:
        raise _unreachable(uri, error) from error


def _client(uri: str) -> Any:
    bound_mlflow()
    from mlflow import MlflowClient

    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:
        raise _unreachable(uri, error) from error


def _experiment(client: Any) -> str:
    number, name = mlflow_experiment()
    if number or not name:
        return number or DEFAULT
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _unless_missing(call: Callable[[], Any]) -> Any:
    """What a call gives; None where there is no such thing, which MLflow has answered then."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None


def _unreachable(uri: str, error: Exception) -> ConfigError:
    """The address without what may be a password in it."""
    address = USER.sub("://", uri)
    return ConfigError(
        f"MLFLOW_TRACKING_URI must lead to an MLflow that takes runs (got {address}: {type(error).__name__}: {shown(error)}); "
        "start it, or unset the variable to train without it"
    )
