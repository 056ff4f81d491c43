"""Log a run to MLflow: settings, metrics, status. Calls have time limits, and metrics are sent from another thread.

Uses MLflow's client directly: MLflow's active run would delay the end of the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tsa.errors import ConfigError
from tsa.optional_libraries import bound_mlflow
from tsa.training.trackers.queue import USER, error_text

MAX_PARAMETERS = 100
"""The most parameters of one call."""
DEFAULT = "0"
"""The id of the default experiment."""
MISSING = "RESOURCE_DOES_NOT_EXIST"


class MLflowRun:
    """A run of the experiment that MLflow's variables name. A resumed run has the same id."""

    def __init__(
        self, uri: str, out: Path, run: dict[str, Any], metric_values: Callable[[Mapping[str, Any]], dict[str, float]]
    ):
        """Create or reopen the run and log its settings.

        Args:
            uri: The address of MLflow.
            out: The run folder, which names the run.
            run: The metadata of the run; its id is stored there.
            metric_values: Returns the numbers of an epoch's record.

        Raises:
            ConfigError: If MLflow cannot be reached.
        """
        self._client, self._metric_values = _client(uri), metric_values
        try:
            self._id, known = self._opened(out, run)
            run["mlflow_run"] = self._id
            settings = {
                f"{section}.{key}": value for section in ("training", "model") for key, value in run[section].items()
            }
            # logged settings cannot be changed; those that may differ in a resumed run do not affect the weights
            self._log_settings({key: value for key, value in settings.items() if key not in known})
        except Exception as error:
            raise _unreachable(uri, error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Log the metrics of an epoch."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, record["epoch"]) for name, value in self._metric_values(record).items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, well: bool) -> None:
        """Set the final status of the run."""
        self._client.set_terminated(self._id, "FINISHED" if well else "FAILED")

    def _opened(self, out: Path, run: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
        """The id of the run, and the settings logged before."""
        from mlflow.tracking.context.registry import resolve_tags

        run_id = run.get("mlflow_run") or os.environ.get("MLFLOW_RUN_ID")
        if run_id and (known := _unless_missing(lambda: self._client.get_run(run_id))) is not None:
            self._client.update_run(run_id, status="RUNNING")
            return run_id, known.data.params
        created = self._client.create_run(_experiment(self._client), run_name=out.resolve().name, tags=resolve_tags())
        return created.info.run_id, {}

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in settings.items()]
        for first in range(0, len(params), MAX_PARAMETERS):
            self._client.log_batch(self._id, params=params[first : first + MAX_PARAMETERS])


def refuse_unreachable(uri: str) -> None:
    """Raise ConfigError if MLflow does not answer."""
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
    number, name = (os.environ.get(f"MLFLOW_EXPERIMENT_{end}") for end in ("ID", "NAME"))
    if number or not name:
        return number or DEFAULT
    experiment = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if experiment is None else experiment.experiment_id)


def _unless_missing(call: Callable[[], Any]) -> Any:
    """The result of a call; None if MLflow answers that the object does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None


def _unreachable(uri: str, error: Exception) -> ConfigError:
    """The error with the address, without a password in it."""
    address = USER.sub("://", uri)
    return ConfigError(
        "MLFLOW_TRACKING_URI must be the address of a running MLflow "
        f"(got {address}: {type(error).__name__}: {error_text(error)}); start it, or unset the variable to train without it"
    )


def mlflow_uri() -> str | None:
    """The address of MLflow; None if MLflow is not used."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None
