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
