"""The commands `tsa markets list` and `tsa markets show`, on the example market files of the package."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.app import app
from tsa.cli.console import console, print_line
from tsa.cli.groups import make_group
from tsa.cli.terminal.results import result

markets = make_group("The example market files of the package: tsa run --market NAME.")
app.add_typer(markets, name="markets")


@markets.command("list")
def list_() -> None:
    """List the example market files: their names, histories, and what they are for."""
    from tsa.config.examples import example_markets

    examples = example_markets()
    result([market.to_dict() for market in examples])
    table = Table("name", "histories", "what it is for", box=SIMPLE_HEAD)
    for market in examples:
        table.add_row(market.name, ", ".join(market.histories), market.about)
    console.print(table)


@markets.command()
def show(name: Annotated[str, typer.Argument(help="One that tsa markets list names.", show_default=False)]) -> None:
    """Print an example market file, to copy from: tsa markets show cards > my.toml."""
    from tsa.config.examples import example_text

    text = example_text(name)
    result({"name": name, "market": text})
    print_line(text.rstrip())
