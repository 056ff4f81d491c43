"""Table of the epochs of a training: a row is printed above the progress bars when an epoch ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 10
COLUMNS: Mapping[str, tuple[str, str]] = {
    "epoch": ("epoch", "{:d}"),
    "loss": ("loss", "{:.4f}"),
    "validation_loss": ("val. loss", "{:.4f}"),
    "validation_average_precision": ("val. AP", "{:.4f}"),
    "validation_roc_auc": ("val. AUC", "{:.4f}"),
    "learning_rate": ("rate", "{:.1e}"),
    "gradient_norm": ("gradient", "{:.3g}"),
    "payments_per_second": ("payments/s", "{:,.0f}"),
    "seconds": ("seconds", "{:.0f}"),
}
"""Key of a record -> title and format. Missing values, as without a validation range, are blank."""


def epoch_table(console: Console) -> Callable[[dict[str, Any]], None]:
    """Return a function that prints the record of an epoch as a row, with the titles before the first."""
    titled = False

    def show(record: dict[str, Any]) -> None:
        nonlocal titled
        console.print(_rows(record, titles=not titled))
        titled = True

    return show


def _rows(record: Mapping[str, Any], *, titles: bool) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=titles, header_style="dim")
    for title, _ in COLUMNS.values():
        table.add_column(title, justify="right", min_width=WIDTH, no_wrap=True)
    table.add_row(*(form.format(record[key]) if key in record else "" for key, (_, form) in COLUMNS.items()))
    return table
