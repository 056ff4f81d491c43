"""The table of a training's epochs, a row for each as it ends, above the bars. Knows what a record of an epoch holds."""

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
"""Key of a record: title and form. What a record lacks, as without a validation range, is left blank."""


def epoch_table(console: Console) -> Callable[[dict[str, Any]], None]:
    """A call that prints the record of an epoch as a row; the titles come before the first."""
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
