"""Columns that a log does not have and that are made when it is read: joined ones, and the number of the row as its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from tsa.config.input import Joined
from tsa.config.market import Market
from tsa.data.log import columns
from tsa.data.spelling import Spelling

ROW_ID = "row"
"""The value of event.id for a log without ids: the number of the row in its file."""
_AT = "__row number"


@dataclass(frozen=True, kw_only=True)
class MadeColumns:
    """The columns to make."""

    joined: tuple[Joined, ...] = ()
    spelling: Spelling = field(default_factory=lambda: Spelling(frozenset()))
    row_id: bool = False
    """Whether rows get a column `row`, if the file has none."""

    @classmethod
    def of(cls, market: Market) -> MadeColumns:
        """Those of a market."""
        return cls(
            joined=market.reading.joined or (),
            spelling=Spelling.of(market),
            row_id=market.event.id == ROW_ID and market.wire is None,
        )

    def parts(self, names: Sequence[str]) -> list[str]:
        """The columns of the log that are needed for these."""
        needed = dict.fromkeys(names)
        needed.update(dict.fromkeys(part for made in self.joined for part in made.columns if made.name in needed))
        return list(needed)

    def schema(self, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
        """The columns that are made of a file with these: those that it lacks."""
        names = [made.name for made in self.joined if set(made.columns) <= set(schema)]
        names += [ROW_ID] if self.row_id else []
        return {name: pl.String() for name in names if name not in schema}

    def add(
        self, frame: pl.LazyFrame, names: Sequence[str], schema: Mapping[str, pl.DataType], file: str
    ) -> pl.LazyFrame:
        """The rows of one file with those of `names` that are made.

        Args:
            schema: Of the file.
            file: What the file is called in ids.
        """
        made = [item for item in self.joined if item.name in names]
        if made:
            frame = frame.with_columns(_joined(item, schema, self.spelling).alias(item.name) for item in made)
        if ROW_ID in names:
            number = pl.concat_str(pl.lit(f"{file}:"), pl.col(_AT).cast(pl.String))
            frame = frame.with_row_index(_AT, offset=1).with_columns(number.alias(ROW_ID)).drop(_AT)
        return frame


def _joined(made: Joined, schema: Mapping[str, pl.DataType], spelling: Spelling) -> pl.Expr:
    """Null where one of the columns has no value."""
    texts = [columns.text(name, schema[name], spelling).cast(pl.String).str.strip_chars() for name in made.columns]
    return pl.concat_str(texts, separator=made.separator)


NOTHING = MadeColumns()
