"""Commands on a registry of bundles: `tsa registry create | publish | list | show | promote | rollback | pull`."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from tsa.cli.app import app
from tsa.cli.console import console, print_line
from tsa.cli.groups import make_group
from tsa.cli.score import BundleFolder
from tsa.cli.terminal.results import result
from tsa.files.outputs import check_outputs

registry = make_group("Publish bundles, and choose by an alias such as champion which one is used.")
app.add_typer(registry, name="registry")

Place = Annotated[
    str,
    typer.Option(
        "--registry",
        envvar="TSA_REGISTRY",
        help="A folder, file:///FOLDER, s3://BUCKET/PREFIX, mlflow://HOST:PORT/NAME or sagemaker://GROUP.",
        show_default=False,
    ),
]
VersionName = Annotated[
    str, typer.Argument(help="An alias, or at least 6 digits of a version's sha256.", show_default=False)
]
Alias = Annotated[str, typer.Option("--alias", help="The alias to move.")]
By = Annotated[str | None, typer.Option("--by", help="Who does this; default: the user's name.", show_default=False)]
Why = Annotated[str, typer.Option("--why", help="The reason, for the alias's history.")]


@registry.command()
def create(
    url: Place,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file: only bundles that its private key signed are accepted.")
    ] = None,
) -> None:
    """Create a registry. Needed with --public-key only: without it, publish creates the registry."""
    from tsa.registry import Registry

    Registry.create(url, None if public_key is None else public_key.read_bytes())
    result({"registry": url, "signed_only": public_key is not None})
    print_line(f"{url}: a new registry" + ("" if public_key is None else ", for signed bundles only"))


@registry.command()
def publish(
    bundle: BundleFolder,
    url: Place,
    note: Annotated[str, typer.Option(help="Anything worth knowing about it.")] = "",
    by: By = None,
) -> None:
    """Add a bundle as a version. A bundle that is already there is not added again."""
    version = _open(url).publish(bundle, by=by or user_name(), note=note)
    result({"registry": url, **asdict(version)})
    print_line(f"{url}: version {version.short} of market {version.market}")


@registry.command("list")
def list_(url: Place) -> None:
    """List the versions with their aliases, metrics, and who signed them."""
    from tsa.bundle.model_card import metric_text

    opened = _open(url)
    versions, aliases = opened.versions(), opened.aliases()
    names: dict[str, list[str]] = {}
    for name, entry in aliases.items():
        names.setdefault(entry.sha256, []).append(name)
    result([{**asdict(version), "aliases": names.get(version.sha256, [])} for version in versions])
    if not versions:
        print_line(f"{url}: no versions yet; tsa registry publish adds one")
        return
    table = Table(
        Column("version", no_wrap=True, min_width=12),
        "aliases",
        "market",
        "published",
        "test range",
        "AP",
        "AUC",
        "signed",
        box=SIMPLE_HEAD,
    )
    for version in versions:
        table.add_row(
            version.short,
            ", ".join(names.get(version.sha256, [])),
            version.market,
            version.published,
            _range(version.ranges.get("test")),
            *(metric_text(version.metrics.get(name)) for name in ("average_precision", "roc_auc")),
            "–" if version.signed_by is None else version.signed_by[:12],
        )
    console.print(table)


@registry.command()
def show(name: VersionName, url: Place) -> None:
    """Show a version and, for an alias, when it was moved, by whom and why."""
    opened = _open(url)
    version, entries = opened.resolve(name), opened.history(name)
    result({"version": asdict(version), "history": [asdict(entry) for entry in entries]})
    for key, value in asdict(version).items():
        print_line(f"{key}: {_plain(value)}")
    if entries:
        table = Table(
            "number", "action", Column("version", no_wrap=True, min_width=12), "by", "at", "why", box=SIMPLE_HEAD
        )
        for entry in entries:
            table.add_row(str(entry.number), entry.action, entry.sha256[:12], entry.by, entry.at, entry.why)
        console.print(table)


@registry.command()
def promote(
    name: VersionName,
    url: Place,
    alias: Alias = "champion",
    by: By = None,
    why: Why = "",
    evidence: Annotated[Path | None, typer.Option(help="A JSON file, such as a report, to store with it.")] = None,
) -> None:
    """Point an alias to this version. If two promotions happen at once, one fails."""
    from tsa.errors import ConfigError
    from tsa.files.writing import read_json

    facts = None if evidence is None else read_json(evidence, ConfigError)
    entry = _open(url).promote(name, alias, by=by or user_name(), why=why, evidence=facts)
    result({"alias": alias, **asdict(entry)})
    print_line(f"{alias}: version {entry.sha256[:12]}")


@registry.command()
def rollback(url: Place, alias: Alias = "champion", by: By = None, why: Why = "") -> None:
    """Point an alias back to the version before the current one."""
    entry = _open(url).rollback(alias, by=by or user_name(), why=why)
    result({"alias": alias, **asdict(entry)})
    print_line(f"{alias}: version {entry.sha256[:12]}")


@registry.command()
def pull(
    name: VersionName,
    url: Place,
    out: Annotated[Path, typer.Option("--out", help="A folder, or a file that ends in .tar.gz.", show_default=False)],
) -> None:
    """Write a version's bundle into a folder or one file."""
    from tsa.bundle.archive import ENDS

    check_outputs([], **{"files" if out.name.endswith(ENDS) else "replaced": {"--out": out}})
    version = _open(url).pull(name, out)
    result({"out": str(out), **asdict(version)})
    print_line(f"{out}: version {version.short} of market {version.market}")


def _open(url: str) -> Any:
    from tsa.registry import Registry

    return Registry.open(url)


def user_name() -> str:
    """The user's name; "unknown" in a container whose user has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _range(times: Any) -> str:
    return "–" if not times else f"{str(times['start'])[:10]} – {str(times['end'])[:10]}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
