"""The encoder: converts clean rows of a log to the network's inputs, the same in training, offline and online scoring.

It holds the vocabularies and scalers, fitted on training rows or imported, and is saved as JSON with exact floats.
The encoding of a row depends on that row alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market, Numerical
from tsa.data.clean_columns import TIME
from tsa.data.encoding.fit_scalers import fit_scalers
from tsa.data.encoding.scaler import Domain, ImportedScaler, Scaler, ScalerGroup, read_scaler
from tsa.data.encoding.training_rows import TrainingRows
from tsa.data.encoding.vocabulary import (
    FIRST_ROW,
    PADDING_ROW,
    ImportedVocabulary,
    Vocabulary,
    calendar_vocabulary,
    encode_calendar,
    fit_vocabularies,
    read_vocabulary,
)
from tsa.data.workers import HERE, Workers
from tsa.errors import DataError, MarketError, StoreError
from tsa.files.writing import read_json, write_json

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Fitted vocabularies and scalers, in the market's order. Calendar features follow the categorical ones, then roles."""

    market_name: str
    market_fingerprint: str
    categorical_vocabularies: tuple[Vocabulary | ImportedVocabulary, ...]
    calendar_vocabularies: tuple[Vocabulary, ...]
    numerical_scaling: ScalerGroup
    engineered_scaling: ScalerGroup
    role_vocabularies: tuple[Vocabulary, ...] = ()
    """Of the histories with several columns of keys. A role depends on the history, so `gather` fills these columns in."""

    @classmethod
    def fit(cls, market: Market, rows: pl.DataFrame | pl.LazyFrame, workers: Workers = HERE) -> Self:
        """Fit on training rows: clean rows with the market's features. The result does not depend on the workers."""
        parts, features = TrainingRows(rows.lazy(), workers), market.features
        categorical = fit_vocabularies(features.categorical, parts, FIRST_ROW)
        next_row = categorical[-1].next_row if categorical else FIRST_ROW
        calendar = []
        for name in features.calendar:
            calendar.append(calendar_vocabulary(name, next_row))
            next_row = calendar[-1].next_row
        scalers = fit_scalers((*features.numerical, *features.engineered), parts)
        return cls(
            market_name=market.name,
            market_fingerprint=market.fingerprint,
            categorical_vocabularies=categorical,
            calendar_vocabularies=tuple(calendar),
            numerical_scaling=ScalerGroup(scalers[: len(features.numerical)]),
            engineered_scaling=ScalerGroup(scalers[len(features.numerical) :]),
            role_vocabularies=tuple(_role_vocabularies(market, next_row)),
        )

    @property
    def vocabularies(self) -> tuple[Vocabulary | ImportedVocabulary, ...]:
        """One per categorical column. They map values to rows of the embedding table, and back."""
        return (*self.categorical_vocabularies, *self.calendar_vocabularies, *self.role_vocabularies)

    @property
    def n_rows(self) -> int:
        """Rows of the shared embedding table, padding included."""
        return max((vocabulary.next_row for vocabulary in self.vocabularies), default=FIRST_ROW)

    @property
    def categorical_names(self) -> tuple[str, ...]:
        """Names of the C columns."""
        return tuple(vocabulary.name for vocabulary in self.vocabularies)

    @property
    def numerical_names(self) -> tuple[str, ...]:
        """Names of the F columns: the features, then the missing-value indicators."""
        return self.numerical_scaling.names

    @property
    def engineered_names(self) -> tuple[str, ...]:
        """Names of the G columns, as `numerical_names`."""
        return self.engineered_scaling.names

    @property
    def columns(self) -> dict[str, list[str]]:
        """All names, by array."""
        return {
            "categorical": list(self.categorical_names),
            "numerical": list(self.numerical_names),
            "engineered": list(self.engineered_names),
        }

    @property
    def domains(self) -> dict[str, Domain]:
        """By numerical and engineered feature: the limits of the raw numbers that can be scaled."""
        return {s.name: s.domain for s in (*self.numerical_scaling.scalers, *self.engineered_scaling.scalers)}

    @property
    def raw_columns(self) -> tuple[str, ...]:
        """Columns that a frame needs to be encoded."""
        scalers = (*self.numerical_scaling.scalers, *self.engineered_scaling.scalers)
        time = (TIME,) if self.calendar_vocabularies else ()
        return (*(v.name for v in self.categorical_vocabularies), *(s.name for s in scalers), *time)

    def categorical(self, frame: pl.DataFrame) -> NDArray[np.int32]:
        """(n, C) int32 rows of the embedding table for n clean rows. Raises DataError for an unsuitable column."""
        out = np.empty((len(frame), len(self.vocabularies)), np.int32)
        for column, vocabulary in enumerate(self.categorical_vocabularies):
            out[:, column] = vocabulary.encode(frame)
        if self.calendar_vocabularies:
            time_seconds = _times(frame)
            for column, vocabulary in enumerate(self.calendar_vocabularies, len(self.categorical_vocabularies)):
                out[:, column] = encode_calendar(vocabulary, time_seconds)
        if self.role_vocabularies:
            out[:, -len(self.role_vocabularies) :] = PADDING_ROW
        return out

    def numerical(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """(n, F) float32, scaled. Raises DataError for an absent column or a value outside its transform's domain."""
        return self.numerical_scaling.encode(frame)

    def engineered(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """(n, G) float32, as `numerical`."""
        return self.engineered_scaling.encode(frame)

    def check_market(self, market: Market) -> None:
        """Check that the market declares the features that this encoder was fitted for.

        Labels, histories and splits may differ, since they do not affect the encoding.

        Raises:
            MarketError: If the features differ.
        """
        declared = {
            "features.categorical": [feature.name for feature in market.features.categorical],
            "features.calendar": list(market.features.calendar),
            "features.numerical": _declared(market.features.numerical, self.numerical_scaling),
            "features.engineered": _declared(market.features.engineered, self.engineered_scaling),
            "history.keys": [[v.name, *v.values] for v in _role_vocabularies(market, FIRST_ROW)],
        }
        fitted = {
            "features.categorical": [vocabulary.name for vocabulary in self.categorical_vocabularies],
            "features.calendar": [vocabulary.name for vocabulary in self.calendar_vocabularies],
            "features.numerical": _declared(self.numerical_scaling.scalers, self.numerical_scaling),
            "features.engineered": _declared(self.engineered_scaling.scalers, self.engineered_scaling),
            "history.keys": [[v.name, *v.values] for v in self.role_vocabularies],
        }
        for key, names in declared.items():
            if names != fitted[key]:
                raise MarketError(
                    f"market {market.name!r}, {key} must be as the encoder was fitted: {fitted[key]} (got {names})"
                )

    def to_dict(self) -> dict[str, Any]:
        """The encoder as plain JSON values."""
        roles = [vocabulary.to_dict() for vocabulary in self.role_vocabularies]
        return {
            "version": VERSION,
            "market": {"name": self.market_name, "fingerprint": self.market_fingerprint},
            "categorical": [vocabulary.to_dict() for vocabulary in self.categorical_vocabularies],
            "calendar": [vocabulary.to_dict() for vocabulary in self.calendar_vocabularies],
            "numerical": [scaler.to_dict() for scaler in self.numerical_scaling.scalers],
            "engineered": [scaler.to_dict() for scaler in self.engineered_scaling.scalers],
            **({"roles": roles} if roles else {}),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The encoder that `to_dict` wrote. Raises StoreError for anything else."""
        try:
            if table["version"] != VERSION:
                raise StoreError(f"encoder: this program reads version {VERSION} (got version={table['version']!r})")
            return cls(
                market_name=table["market"]["name"],
                market_fingerprint=table["market"]["fingerprint"],
                categorical_vocabularies=tuple(read_vocabulary(entry) for entry in table["categorical"]),
                calendar_vocabularies=tuple(Vocabulary.from_dict(entry) for entry in table["calendar"]),
                numerical_scaling=ScalerGroup(tuple(read_scaler(entry) for entry in table["numerical"])),
                engineered_scaling=ScalerGroup(tuple(read_scaler(entry) for entry in table["engineered"])),
                role_vocabularies=tuple(Vocabulary.from_dict(entry) for entry in table.get("roles", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"encoder must be as this program writes it (got {error!r})") from error

    def save(self, path: Path) -> None:
        """Write the encoder as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> Self:
        """The encoder in the file `path`. Raises StoreError naming it."""
        return cls.from_dict(read_json(path, StoreError))


def _role_vocabularies(market: Market, first_row: int) -> Iterator[Vocabulary]:
    """The vocabulary of the roles of each history with several columns of keys."""
    for history in market.history:
        if history.keys is not None:
            several = "both" if len(history.keys) == 2 else "several"
            made = Vocabulary(name=history.role_name, first_row=first_row, values=(*history.keys, several))
            yield made
            first_row = made.next_row


def _declared(features: Sequence[Numerical | Scaler | ImportedScaler], scaling: ScalerGroup) -> list[str]:
    """What has to match: the names, and the scaling, unless it was imported."""
    if any(isinstance(scaler, ImportedScaler) for scaler in scaling.scalers):
        return [feature.name for feature in features]
    return [f"{f.name} ({f.transform}, {f.scale})" for f in features if not isinstance(f, ImportedScaler)]


def _times(frame: pl.DataFrame) -> NDArray[np.float64]:
    """(n,) epoch seconds of the rows. Raises DataError if absent or not finite: calendar features need a time."""
    if TIME not in frame.columns:
        raise DataError(f"calendar features need the column {TIME!r} (got {sorted(frame.columns)})")
    times = frame[TIME].cast(pl.Float64).to_numpy()
    if not np.isfinite(times).all():
        raise DataError(f"{TIME} must be finite, but {np.count_nonzero(~np.isfinite(times))} rows are not")
    return times
