"""Write bad wire rows to the quarantine file as they are in the log, histories included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.data.log.quarantine import REASON
from tsa.data.log.sorting import ParquetChunkWriter
from tsa.data.wire.files import WireFile
from tsa.data.wire.layout import FieldLayout

ROW = "__wire_row"


def write_rows(files: Sequence[WireFile], bad: pl.DataFrame, pseudonyms: Pseudonymizer | None, out: Path) -> None:
    """Write the rows numbered in `bad` (`ROW`, `REASON`) with their reasons, block by block.

    Values of pseudonymised columns are written as pseudonyms.
    """
    layout = files[0].layout
    names = [*layout.current, *layout.others, *layout.history_fields]
    if pseudonyms is not None:
        names = [name for name in names if name not in secret_fields(layout, pseudonyms)]
    empty = pl.DataFrame(schema=dict.fromkeys([*names, REASON], pl.String()))
    out.parent.mkdir(parents=True, exist_ok=True)
    with ParquetChunkWriter(out) as parts:
        parts.write(empty)
        for rows in _bad_rows(files, bad) if len(bad) else ():
            part = pl.concat(
                [empty, rows.select(name for name in empty.columns if name in rows.columns)], how="diagonal"
            )
            parts.write(part if pseudonyms is None else pseudonyms.frame(part))


def _bad_rows(files: Sequence[WireFile], reasons: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows that have a reason, block by block."""
    first = 0
    for file in files:
        for block in file.blocks():
            histories = pl.DataFrame(block.histories, schema=list(file.layout.history_fields), orient="row")
            rows = pl.concat([block.frame, histories], how="horizontal").with_row_index(ROW, first)
            rows = rows.with_columns(pl.col(ROW).cast(pl.Int64)).join(reasons, on=ROW, maintain_order="left")
            first += len(block.frame)
            if len(rows):
                yield rows.drop(ROW)


def secret_fields(layout: FieldLayout, pseudonyms: Pseudonymizer) -> set[str]:
    """History fields with earlier values of pseudonymised columns. A field holds all values in one text, so it is left
    out.
    """
    fields = (zip(part.features, part.fields, strict=False) for history in layout.histories for part in history.parts)
    names = {field for part in fields for name, field in part if name in pseudonyms.columns}
    if layout.market.event.id in pseudonyms.columns:
        names |= {part.fields[-1] for history in layout.histories for part in history.parts}
    return names
