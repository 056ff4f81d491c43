"""Attributions by what they are of: the features of the current payment, and each earlier event's presence, values and outcome.

Every attribution goes to one of these, so they add up to what was attributed. Knows the columns of an encoder; no raw values.
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
    """What the e earlier events of a history add, oldest first.

    presence (e,)    that they happened, when they did
    outcome  (e,)    what is known of their outcome
    features (e, n)  their values, and how these compare with the current payment's, in the order of `FeatureAttributions.names`
    """

    presence: Float64
    outcome: Float64
    features: Float64

    @property
    def events(self) -> Float64:
        """(e,) all that each event adds."""
        summed: Float64 = self.presence + self.outcome + self.features.sum(1)
        return summed


@dataclass(frozen=True)
class FeatureAttributions:
    """What each feature of the current payment adds (n,), by `names`, and what the events of each history do."""

    names: Sequence[str]
    current: Float64
    histories: Sequence[EventAttributions]


def shares_of(encoder: Encoder, passage: InterpolationPath, found: Attribution) -> FeatureAttributions:
    """Sort attributions by what they are of. A column that says that a feature has no value belongs to that feature."""
    columns = _Columns(encoder)
    current = np.zeros(len(columns.names))
    for place, columns_there in ((InputSite("tokens"), columns.all), (InputSite("numbers"), columns.numbers)):
        if place in found.at:
            np.add.at(current, columns_there, found.at[place].cpu().numpy()[: len(columns_there)])
    histories = []
    for k, history in enumerate(passage.histories):
        shown = EventAttributions(
            presence=found.at[InputSite("presence", k)].cpu().numpy(),
            outcome=np.zeros(history.padding.shape[1] - 1),
            features=np.zeros((history.padding.shape[1] - 1, len(columns.names))),
        )
        for place, events in passage.embeddings(k):
            values = found.at[place].cpu().numpy()
            for at, part in enumerate(part_names(events, history)):
                if part.kind == "outcome":
                    shown.outcome[:] += values[:-1, at]
                elif part.kind != "base":
                    shown.features[:, columns.of(part)] += values[:-1, at]
                    current[columns.of(part)] += values[-1, at]
        histories.append(shown)
    return FeatureAttributions(columns.names, current, histories)


class _Columns:
    """Where in `names` each column of the arrays belongs."""

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
    """Whose value each column tells of."""
    own = {f"{scaler.name} is missing": scaler.name for scaler in scaling.scalers}
    return [own.get(name, name) for name in scaling.names]
