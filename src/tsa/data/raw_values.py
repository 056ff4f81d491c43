"""Raw values of events in a form that aggregates compare and sum: a number per text, and numerical features unscaled.

A vocabulary maps rare values to one row and a scaler bends numbers; here two events have equal tokens only if they have
the same text, such as a device that no training row had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.encoding.scaler import float_column

MISSING_TOKEN = 0
TOKEN_BYTES = 4

Tokens = NDArray[np.uint32]
Numbers = NDArray[np.float32]


def token_columns(market: Market) -> tuple[str, ...]:
    """Columns whose texts are compared: the categorical features, then the key of each view of a history, by its name."""
    keys = (view.key for view in sorted(market.views, key=lambda view: view.name))
    return (*(f.name for f in market.features.categorical), *(key for key in keys if key is not None))


def key_token_columns(market: Market) -> dict[str, int]:
    """The position of the key of each view among `token_columns`, by the view's name."""
    names = sorted(view.name for view in market.views if view.key is not None)
    return {name: at for at, name in enumerate(names, len(market.features.categorical))}


def number_columns(market: Market) -> tuple[str, ...]:
    """The numerical features."""
    return tuple(feature.name for feature in market.features.numerical)


@lru_cache(maxsize=2**16)
def token(text: str | None) -> int:
    """A number from 1 to 2^32 - 1 for a text, the same in every process; 0 for a missing value.

    Two texts of a history have the same number once in four billion pairs.
    """
    if text is None:
        return MISSING_TOKEN
    return int.from_bytes(blake2b(text.encode(), digest_size=TOKEN_BYTES).digest(), "little") or 1


def frame_tokens(frame: pl.DataFrame, columns: Sequence[str]) -> Tokens:
    """(n, S) tokens of clean columns."""
    out = np.empty((len(frame), len(columns)), np.uint32)
    for at, name in enumerate(columns):
        texts = frame[name].cast(pl.String)
        values = texts.drop_nulls().unique()
        if not len(values):
            out[:, at] = MISSING_TOKEN
            continue
        tokens = pl.Series([token(text) for text in values], dtype=pl.UInt32)
        tokens_of_texts = texts.replace_strict(values, tokens, default=MISSING_TOKEN, return_dtype=pl.UInt32)
        out[:, at] = tokens_of_texts.fill_null(MISSING_TOKEN).to_numpy()
    return out


def frame_numbers(frame: pl.DataFrame, columns: Sequence[str]) -> Numbers:
    """(n, F) clean numerical features, NaN where missing."""
    out = np.empty((len(frame), len(columns)), np.float32)
    for at, name in enumerate(columns):
        out[:, at] = as_numbers(float_column(frame, name))
    return out


def row_tokens(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Tokens:
    """(n, S) tokens of clean values by column."""
    tokens = [[token(row.get(name)) for name in columns] for row in rows]
    return np.array(tokens, np.uint32).reshape(len(rows), len(columns))


def as_numbers(values: NDArray[np.float64]) -> Numbers:
    """Numbers rounded to float32; infinite beyond its range."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
