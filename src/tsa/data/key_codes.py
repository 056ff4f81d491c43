"""Numbers for the keys of events."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

CODE = "__code"  # no market column starts with two underscores


def key_codes(key: pl.Series) -> NDArray[np.int64]:
    """(n,) codes of the keys, numbered by first appearance; -1 for null."""
    name = key.name
    known = key.drop_nulls().unique(maintain_order=True).to_frame().with_row_index(CODE)
    codes = key.to_frame().join(known, on=name, how="left", maintain_order="left").get_column(CODE)
    return codes.cast(pl.Int64).fill_null(-1).to_numpy()


def key_code_table(keys: pl.DataFrame) -> NDArray[np.int64]:
    """(n, K) codes of the keys in K columns, where a key has the same code in any of them; -1 for null."""
    texts = pl.concat([keys[name].cast(pl.String).alias("__key") for name in keys.columns])
    return key_codes(texts).reshape(len(keys.columns), len(keys)).T
