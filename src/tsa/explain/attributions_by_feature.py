"""Aggregate attributions by feature of the current payment, and by presence, values and outcome of each earlier event.

Every attribution is assigned to exactly one of these, so the sums are preserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import ScalerGroup
from tsa.explain.embedding_parts import EmbeddingPart, part_names
from tsa.explain.integrated_gradients import Attribution
from tsa.explain.path import InputSite, InterpolationPath

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EventAttributions:
    """Attributions of the e earlier events of a history, oldest first.

    presence (e,)    of the occurrence and time of the events
    outcome  (e,)    of their known outcomes
    features (e, n)  of their values and of the comparison with the current payment, in the order of
                     `FeatureAttributions.names`
    keys     (e, K)  of having the current payment's keys or not, in the order of `tsa.data.key_roles.compared_keys`
    """

    presence: Float64
    outcome: Float64
    features: Float64
    keys: Float64

    @property
    def events(self) -> Float64:
        """(e,) the total attribution of each event."""
        summed: Float64 = self.presence + self.outcome + self.features.sum(1) + self.keys.sum(1)
        return summed


@dataclass(frozen=True)
class FeatureAttributions:
    """Attributions of the features of the current payment (n,), by `names`, and of the events of each history."""

    names: Sequence[str]
    current: Float64
    histories: Sequence[EventAttributions]

    def scaled(self, weight: float) -> FeatureAttributions:
        """All attributions times a weight."""
        histories = [
            EventAttributions(
                presence=weight * one.presence,
                outcome=weight * one.outcome,
                features=weight * one.features,
                keys=weight * one.keys,
            )
            for one in self.histories
        ]
        return FeatureAttributions(self.names, weight * self.current, histories)


def no_shares(encoder: Encoder, lengths: Sequence[int]) -> FeatureAttributions:
    """Attributions of 0, for histories of so many earlier events."""
    names = _Columns(encoder).names
    histories = [
        EventAttributions(
            presence=np.zeros(e), outcome=np.zeros(e), features=np.zeros((e, len(names))), keys=np.zeros((e, 0))
        )
        for e in lengths
    ]
    return FeatureAttributions(names, np.zeros(len(names)), histories)


def shares_of(encoder: Encoder, passage: InterpolationPath, attribution: Attribution) -> FeatureAttributions:
    """Aggregate attributions. A missing indicator belongs to its feature."""
    columns = _Columns(encoder)
    current = np.zeros(len(columns.names))
    for place, columns_there in ((InputSite("tokens"), columns.all), (InputSite("numbers"), columns.numbers)):
        if place in attribution.at:
            np.add.at(current, columns_there, attribution.at[place].cpu().numpy()[: len(columns_there)])
    histories = []
    for k, history in enumerate(passage.histories):
        shown = EventAttributions(
            presence=attribution.at[InputSite("presence", k)].cpu().numpy(),
            outcome=np.zeros(history.padding.shape[1] - 1),
            features=np.zeros((history.padding.shape[1] - 1, len(columns.names))),
            keys=np.zeros((history.padding.shape[1] - 1, passage.network.config.n_match_keys)),
        )
        for place, events in passage.embeddings(k):
            values = attribution.at[place].cpu().numpy()
            for at, part in enumerate(part_names(events, history)):
                if part.kind == "outcome":
                    shown.outcome[:] += values[:-1, at]
                elif part.kind == "key":  # the same at both ends of the path for the current payment
                    shown.keys[:, part.column] += values[:-1, at]
                elif part.kind != "base":
                    shown.features[:, columns.of(part)] += values[:-1, at]
                    current[columns.of(part)] += values[-1, at]
        histories.append(shown)
    return FeatureAttributions(columns.names, current, histories)


class _Columns:
    """The index in `names` of each column of the arrays."""

    def __init__(self, encoder: Encoder) -> None:
        categorical = list(encoder.categorical_names)
        numerical, engineered = _owners(encoder.numerical_scaling), _owners(encoder.engineered_scaling)
        self.names = list(dict.fromkeys([*categorical, *numerical, *engineered]))
        self._categorical = self._at(categorical)
        self._numerical = self._at(numerical)
        self.numbers = [*self._numerical, *self._at(engineered)]
        self.all = [*self._categorical, *self.numbers]

    def of(self, part: EmbeddingPart) -> int:
        return (self._categorical if part.kind == "categorical" else self._numerical)[part.column]

    def _at(self, names: Sequence[str]) -> list[int]:
        place = {name: at for at, name in enumerate(self.names)}
        return [place[name] for name in names]


def _owners(scaling: ScalerGroup) -> list[str]:
    """The feature of each column."""
    own = {f"{scaler.name} is missing": scaler.name for scaler in scaling.scalers}
    return [own.get(name, name) for name in scaling.names]
