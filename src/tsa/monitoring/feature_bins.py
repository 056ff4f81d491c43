"""Bins for the features of a bundle, and counts of a store's payments per bin and window.

The counts are compared in `tsa.monitoring.stability`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from tsa.data.encoding.scaler import float_column
from tsa.data.encoding.vocabulary import CALENDAR, ImportedVocabulary, Vocabulary, encode_calendar
from tsa.evaluation.metrics.psi import equal_mass_edges
from tsa.monitoring.bin_counts import Counts, Feature, Floats, Integers, count_numbers, table
from tsa.monitoring.windows import ScoredWindow, Windows


def features_of(seen: ScoredWindow) -> list[Feature]:
    """The bundle's features, with bins from these reference payments."""
    encoder = seen.store.encoder
    categorical = [
        Feature(name=v.name, kind="categorical", values=tuple(_named_rows(v).values()))
        for v in encoder.categorical_vocabularies
    ]
    scalers = (*encoder.numerical_scaling.scalers, *encoder.engineered_scaling.scalers)
    numbers = [
        Feature(name=scaler.name, kind="numerical", edges=equal_mass_edges(_numbers(seen, scaler.name)))
        for scaler in scalers
    ]
    calendar = [Feature(name=v.name, kind="calendar", values=v.values) for v in encoder.calendar_vocabularies]
    return [*categorical, *numbers, *calendar]


def count_features(seen: ScoredWindow, features: Sequence[Feature], windows: Windows) -> list[Counts]:
    """The counts of each feature."""
    codes = windows.codes(seen.time_seconds)
    vocabularies = {v.name: (column, v) for column, v in enumerate(seen.store.encoder.vocabularies)}
    counts = []
    for feature in features:
        if feature.kind == "numerical":
            counts.append(count_numbers(_numbers(seen, feature.name), feature.edges, codes, len(windows)))
        elif feature.kind == "calendar":
            known = _count_rows(seen, *vocabularies[feature.name], codes, len(windows)).known
            nothing = np.zeros(len(windows), np.int64)
            hours = _hours(vocabularies[feature.name][1], windows)
            counts.append(Counts(known=known, missing=nothing, unknown=nothing, hours=hours))
        else:
            counts.append(_count_rows(seen, *vocabularies[feature.name], codes, len(windows)))
    return counts


def _numbers(seen: ScoredWindow, name: str) -> Floats:
    return float_column(seen.store.columns([name])[seen.rows], name)


def _named_rows(vocabulary: Vocabulary | ImportedVocabulary) -> dict[int, str]:
    """The value of each embedding row for known values; several values may share a row."""
    if isinstance(vocabulary, Vocabulary):
        return dict(enumerate(vocabulary.values, vocabulary.known_row))
    named: dict[int, str] = {}
    for value, row in zip(vocabulary.values, vocabulary.rows, strict=True):
        if row != vocabulary.unknown_row:
            named[row] = f"{named[row]}, {value}" if row in named else value
    return named


def _count_rows(
    seen: ScoredWindow, column: int, vocabulary: Vocabulary | ImportedVocabulary, window: Integers, windows: int
) -> Counts:
    """Counts of the values of an encoded column, as the network reads them."""
    rows = np.asarray(seen.store.categorical[seen.rows, column])
    if isinstance(vocabulary, Vocabulary):
        missing = rows == vocabulary.missing_row
    else:  # with that policy a missing value uses the row of a known one
        missing = seen.store.columns([vocabulary.name])[seen.rows].to_series().is_null().to_numpy()
    names = _named_rows(vocabulary)
    bin_of = np.full(max(seen.store.encoder.n_rows, 1), -1)
    bin_of[list(names)] = np.arange(len(names))
    bins = bin_of[rows]
    known = ~missing & (bins >= 0)
    return Counts(
        known=table(window[known], bins[known], windows, len(names)),
        missing=np.bincount(window[missing], minlength=windows),
        unknown=np.bincount(window[~missing & (bins < 0)], minlength=windows),
    )


def _hours(vocabulary: Vocabulary | ImportedVocabulary, windows: Windows) -> Integers:
    """(W, B) hours in each window per value of a calendar feature."""
    assert isinstance(vocabulary, Vocabulary)
    rows = []
    for start, end in itertools.pairwise(windows.edges):
        hours = np.arange(math.floor(start / 3600), math.ceil(end / 3600)) * 3600.0
        bins = encode_calendar(vocabulary, hours) - vocabulary.known_row
        rows.append(np.bincount(bins, minlength=len(CALENDAR[vocabulary.name])))
    return np.array(rows)
