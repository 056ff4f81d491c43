"""Write a simulated log as rows with inline history: each payment with the earlier ones of its customer or card.

Features that the simulator has under the market's name are used; all others are invented from customer, terminal and
chance, so that it works for any market.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.history import HistoryIndex, index_histories
from tsa.errors import ConfigError
from tsa.simulation.config import SECONDS_A_DAY, SimulationConfig
from tsa.simulation.log import simulate
from tsa.simulation.writer import log_writer

KEYS = ("customer_id", "card_id", "terminal_id")
TABLES = (".tsv", ".csv")
PIECE_ROWS = 2000
MARKER_SHARE = 0.3  # share of missing values written as the last marker instead of the first
GAP_SHARE = 0.02  # share of invented values that are missing
NEW_SHARE, NEW_FROM = 0.01, 0.6  # share of invented values that first occur after this part of the period
INTEGER_SHARE = 0.3  # share of numeric categorical values written with a fraction
MISMATCH_SHARE = 0.02  # share of rows whose numerical history lacks its oldest payment
WINDOWS = {"payments_1d": 1, "payments_7d": 7, "payments_30d": 30}


def write_wire(config: SimulationConfig, market: Market, out: Path) -> dict[str, int]:
    """Write rows with inline history for a market, in the format given by the suffix of `out`.

    Returns:
        The number of payments and of frauds.

    Raises:
        ConfigError: For an unknown suffix, a market without a [wire] table, or keys that are not simulated.
    """
    rows = WireRows(config, market)
    dots = "__DOT__" if any(part in TABLES for part in Path(out).suffixes) else "."
    with log_writer(Path(out)) as write:
        for piece in rows.pieces():
            write(piece.rename(lambda name: name.replace(".", dots)))
    return {"payments": len(rows.log), "frauds": int(rows.log["is_fraud"].sum())}


@dataclass(frozen=True)
class WireRows:
    """The rows of one simulation."""

    config: SimulationConfig
    market: Market

    def __post_init__(self) -> None:
        if self.market.wire is None:
            raise ConfigError(
                f"market must have a [wire] table to simulate inline histories (got {self.market.name!r}, without one)"
            )
        for history in self.market.history:
            if history.key not in KEYS:
                actual = f"history.{history.name}.key={history.key!r}"
                raise ConfigError(f"a simulated history must have one of the keys {', '.join(KEYS)} (got {actual})")

    @cached_property
    def log(self) -> pl.DataFrame:
        """The payments in time order."""
        return simulate(self.config)

    @cached_property
    def _seconds(self) -> NDArray[np.int64]:
        return self.log["paid_at"].dt.epoch("s").to_numpy()

    def _rng(self, name: str) -> np.random.Generator:
        return self.config.generator("wire", crc32(name.encode()))

    def pieces(self) -> Iterator[pl.DataFrame]:
        """All rows, in chunks."""
        own = self._own()
        for first in range(0, len(own), PIECE_ROWS):
            rows = np.arange(first, min(first + PIECE_ROWS, len(own)))
            histories = [
                series for history in self.market.history for series in self._history_columns(own, history.name, rows)
            ]
            yield pl.DataFrame([*own[rows].get_columns(), *histories])

    def _own(self) -> pl.DataFrame:
        """The fields of the payments themselves, as texts."""
        market = self.market
        columns = {
            market.event.id: "p" + self.log["payment_id"].cast(pl.String).str.zfill(9),
            market.event.time: pl.Series(self._seconds).cast(pl.String),
            market.label.column: self.log["is_fraud"].cast(pl.String).fill_null(""),
        }
        for history in market.history:
            if history.key is not None:
                columns[history.key] = history.key[:4] + self.log[history.key].cast(pl.String)
        wire = market.wire
        integer_names = set() if wire is None else set(wire.numeric_categorical)
        columns |= {f.name: self._text(f.name, f.name in integer_names) for f in market.features.categorical}
        numbers = (*market.features.numerical, *market.features.engineered)
        columns |= {f.name: self._marked(f.name, self._number(f.name).round(2).cast(pl.String)) for f in numbers}
        return pl.DataFrame([series.alias(name) for name, series in columns.items()])

    def _text(self, name: str, as_integers: bool) -> pl.Series:
        """A categorical feature: the simulator's if it has one, or a habit of the customer or the terminal, or random."""
        if name in self.log.columns and not as_integers:
            return self._marked(name, self.log[name].cast(pl.String))
        rng, n = self._rng(name), len(self.log)
        kinds = int(rng.integers(2, 40))
        habit = self.log[("customer_id", "terminal_id")[int(rng.integers(2))]].fill_null(0).to_numpy()
        value = (habit * 2_654_435_761 + crc32(name.encode())) // 7 % kinds
        value = np.where(rng.random(n) < 0.3, rng.integers(0, kinds, n), value)
        value = np.where((rng.random(n) < NEW_SHARE) & (np.arange(n) > NEW_FROM * n), kinds + value % 3, value)
        texts = pl.Series(value).cast(pl.String)
        if as_integers:
            fraction = pl.Series(np.where(rng.random(n) < INTEGER_SHARE, ".0", ""))
            return self._marked(name, self._gaps(name, texts + fraction))
        return self._marked(name, self._gaps(name, f"{name[:2]}-" + texts))

    def _number(self, name: str) -> pl.Series:
        """A number: the simulator's if it has one, a count of the customer's last payments, or the amount with noise."""
        if name in self.log.columns:
            return self.log[name].cast(pl.Float64)
        if name in WINDOWS:
            return self._counted(WINDOWS[name])
        rng = self._rng(name)
        noise = rng.lognormal(2.0, 1.0, len(self.log))
        amount = self.log["amount"].to_numpy() if rng.random() < 0.2 else 1.0
        return self._gaps(name, pl.Series(np.asarray(noise * np.sqrt(amount))))

    def _counted(self, days: int) -> pl.Series:
        """The number of payments of the customer in the preceding days."""
        index, n = self._index("customer_id"), len(self.log)
        oldest = np.searchsorted(self._seconds, self._seconds - days * SECONDS_A_DAY)
        key = index.start[index.order] * (n + 1) + index.order
        first = np.searchsorted(key, index.start * (n + 1) + oldest)
        return pl.Series((index.position - first).astype(np.float64))

    def _gaps(self, name: str, values: pl.Series) -> pl.Series:
        return values.set(pl.Series(self._rng(f"{name} gaps").random(len(values)) < GAP_SHARE), None)

    def _marked(self, name: str, texts: pl.Series) -> pl.Series:
        """Missing values as the market writes them."""
        markers = ("",) if self.market.wire is None or not self.market.wire.missing else self.market.wire.missing
        other = pl.Series(self._rng(f"{name} markers").random(len(texts)) < MARKER_SHARE)
        marks = pl.Series([markers[-1]], dtype=pl.String).new_from_index(0, len(texts)).set(~other, markers[0])
        return texts.cast(pl.String).zip_with(texts.is_not_null(), marks)

    def _index(self, key: str) -> HistoryIndex:
        return index_histories(self.log[key].cast(pl.Int64).fill_null(-1).to_numpy())

    def _history_columns(self, own: pl.DataFrame, name: str, rows: NDArray[np.int64]) -> Iterator[pl.Series]:
        """The history fields of some rows."""
        history = next(history for history in self.market.history if history.name == name)
        wire, event, features = self.market.wire, self.market.event, self.market.features
        assert wire is not None
        index = self._index(str(history.key))
        lengths = np.minimum(index.position[rows] - index.start[rows], history.length - 1)
        is_shorter = self._rng(f"{name} {rows[0]}").random(len(rows)) < (
            MISMATCH_SHARE if wire.mismatched != "refuse" else 0.0
        )
        groups = [feature.name for feature in features.categorical], [feature.name for feature in features.numerical]
        for part, group in zip(wire.parts, groups, strict=True):
            counts = np.where(is_shorter, np.maximum(lengths - 1, 0), lengths) if part == wire.parts[1] else lengths
            past = _HistoryTexts.of(index, rows, counts)
            for feature in group:
                yield past.joined(own[feature], wire.separator).alias(wire.field(name, part, feature))
            for column in (event.time, event.id) if group else ():
                yield past.joined(own[column], wire.separator).alias(wire.event_field_name(name, part, column))


@dataclass(frozen=True)
class _HistoryTexts:
    """The earlier payments in the histories of some rows, row by row, oldest first."""

    event: NDArray[np.int64]
    row: NDArray[np.int64]
    n_rows: int

    @classmethod
    def of(cls, index: HistoryIndex, rows: NDArray[np.int64], counts: NDArray[np.int64]) -> _HistoryTexts:
        """The `counts` (r,) payments before each of `rows` (r,)."""
        row = np.repeat(np.arange(len(rows)), counts)
        back = np.repeat(np.cumsum(counts), counts) - np.arange(len(row))
        return cls(index.order[index.position[rows][row] - back], row, len(rows))

    def joined(self, texts: pl.Series, separator: str) -> pl.Series:
        """(r,) the joined texts of each row's payments; empty if there are none."""
        events = pl.DataFrame({"row": self.row, "text": texts.gather(self.event)})
        texts_by_row = events.group_by("row", maintain_order=True).agg(pl.col("text").str.join(separator))
        empty = pl.Series([""]).new_from_index(0, self.n_rows)
        return pl.Series(empty.scatter(texts_by_row["row"], texts_by_row["text"])) if len(texts_by_row) else empty
