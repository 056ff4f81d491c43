"""The Typer application, and options that several commands share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import tsa
from tsa.cli.groups import make_group
from tsa.data.log.quarantine import Quarantine as Quarantined
from tsa.errors import ConfigError
from tsa.files.object_folder import object_url
from tsa.files.outputs import is_stream

app = make_group(
    "Detect fraud in payments with Temporal Self-Attention: from a log to a report, a bundle and scores.",
    epilog="To get started: tsa simulate --out log.parquet, then tsa run --market demo log.parquet --out run",
    add_completion=True,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"tsa {tsa.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


Logs = Annotated[
    list[str],
    typer.Argument(help="Parquet, CSV, TSV or JSON lines files (.gz too), globs or URLs.", show_default=False),
]
OptionalLogs = Annotated[
    list[str] | None,
    typer.Argument(help="Parquet, CSV, TSV or JSON lines files (.gz too), globs or URLs.", show_default=False),
]
MarketFile = Annotated[
    Path, typer.Option("--market", "-m", help="The market file: what the columns mean.", show_default=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a setting: KEY=VALUE. KEY is a key of the market file (label.delay_days), training.KEY or model.KEY. "
        "Repeatable.",
        show_default=False,
    ),
]
EvaluationSets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override the run's market: evaluation.KEY=VALUE. Repeatable.", show_default=False),
]
MarketSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override the bundle's market: KEY=VALUE, such as label.delay_days=2. Repeatable.",
        show_default=False,
    ),
]
LogSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override the market file: KEY=VALUE, such as label.delay_days=2. Repeatable.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no notes; results and errors only.")]
Quarantine = Annotated[
    Path | None, typer.Option(help="Write invalid rows with the reason to this Parquet file, instead of failing.")
]
QuarantineLimit = Annotated[
    float | None,
    typer.Option(
        "--quarantine-limit",
        help="The largest allowed share of invalid rows, such as 0.2. [default: 0.05]",
        show_default=False,
    ),
]


class Executor(StrEnum):
    """Who does the work on parts of the data."""

    LOCAL = "local"
    RAY = "ray"


RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="HOST:PORT of a Ray cluster that this machine belongs to, ray://HOST:PORT, or auto. "
        "[default: that of RAY_ADDRESS, or one that runs here or is started here]",
        show_default=False,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="The network. default: the one of this project; reference or reference-two-history: that of the legacy system, "
        "with the sizes and histories of the store."
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings", help="TOML file with tables [training] and [model]; --set overrides it.", show_default=False
    ),
]
CostReview = Annotated[float, typer.Option(help="Cost of one review, in the unit of the amounts.")]
CostFraud = Annotated[
    float | None, typer.Option(help="Fixed loss of a missed fraud, instead of its amount.", show_default=False)
]
AmountColumn = Annotated[
    str | None,
    typer.Option(help="Column with the loss of a missed fraud; default: the market's amount.", show_default=False),
]
Recovered = Annotated[float, typer.Option(help="Share of the loss that a review saves.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder that `tsa train` or `tsa run` wrote.", show_default=False)]


def quarantine_of(path: Path | None, limit: float | None) -> Quarantined | None:
    """The quarantine of invalid rows, if any. Raises ConfigError for a limit without a quarantine."""
    if path is None and limit is not None:
        raise ConfigError(f"--quarantine-limit needs --quarantine (got {limit} alone): give the file for invalid rows")
    return None if path is None else Quarantined(path) if limit is None else Quarantined(path, limit)


def log_path_for(out: Path) -> Path | None:
    """The path of the log file for the output `out`; None if that is a device, a pipe or a URL."""
    return None if is_stream(out) or object_url(out) else out.absolute().parent / f"{out.absolute().name}.log"


def need_ray(executor: Executor, address: str | None) -> None:
    """Raise ConfigError for the address of a cluster that is not used."""
    if executor is Executor.LOCAL and address is not None:
        raise ConfigError(f"--ray-address needs --executor ray (got {address} alone): give both")


def cluster_of(executor: Executor, address: str | None) -> AbstractContextManager[Any]:
    """The Ray cluster whose workers do the work; None for this machine."""
    if executor is Executor.LOCAL:
        return nullcontext()
    from tsa.scale.cluster import ray_cluster

    return ray_cluster(address)
