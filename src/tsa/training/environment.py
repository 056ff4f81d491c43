"""What the environment says to a training: the one place of it where environment variables are read."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """What torchrun tells each process that it starts."""

    rank: int
    count: int
    local_rank: int


def launched() -> Launch | None:
    """How torchrun started this process; None where it did not, or started one alone."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    rank = int(os.environ["RANK"])
    return Launch(rank, int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", rank)))


def mlflow_uri() -> str | None:
    """Where MLflow keeps its runs; None where it is not wanted."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def mlflow_experiment() -> tuple[str | None, str | None]:
    """Number and name of the experiment that runs belong to, by MLflow's own variables."""
    return os.environ.get("MLFLOW_EXPERIMENT_ID") or None, os.environ.get("MLFLOW_EXPERIMENT_NAME") or None


def mlflow_run() -> str | None:
    """The number of the run that is to be gone on with, by MLflow's own variable."""
    return os.environ.get("MLFLOW_RUN_ID") or None


def bound_mlflow() -> None:
    """Bound MLflow's calls, unless its own variables say otherwise: by itself one may take half an hour."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # results alone are printed there
