"""The sections of a market file, and what they say together: its columns, keys and histories."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field, field_validator

from tsa.config.base import ConfigModel
from tsa.config.input import Input
from tsa.config.legacy import LegacyArtifacts
from tsa.config.optional_tables import Privacy, Serving, Trees
from tsa.config.promotion import Promotion
from tsa.config.reason_texts import Reasons
from tsa.config.split import Split
from tsa.config.tables import Evaluation, Event, Features, HistoryConfig, HistoryView, Label, Monitoring, RowRule
from tsa.config.wire import InlineHistory


class MarketTables(ConfigModel):
    """All sections of a market; `tsa.config.validation` has the rules between them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    event: Event
    input: Input | None = None
    label: Label
    history: tuple[HistoryConfig, ...]
    features: Features = Features()
    split: Split = Split(fractions=(0.7, 0.1, 0.1, 0.1))
    evaluation: Evaluation = Evaluation()
    monitoring: Monitoring | None = None
    wire: InlineHistory | None = None
    privacy: Privacy | None = None
    serving: Serving | None = None
    reasons: Reasons | None = None
    trees: Trees | None = None
    legacy: LegacyArtifacts | None = None
    promotion: Promotion | None = None

    @field_validator("trees")
    @classmethod
    def _usual_trees(cls, value: Trees | None) -> Trees | None:
        """As for `input`."""
        return None if value == Trees() else value

    @field_validator("input")
    @classmethod
    def _usual(cls, value: Input | None) -> Input | None:
        """A section that only repeats the defaults counts as absent, so that the market stays the same."""
        return None if value == Input() else value

    @property
    def reading(self) -> Input:
        """`[input]`, or its defaults."""
        return self.input or Input()

    @property
    def aggregation(self) -> Trees:
        """`[trees]`, or its defaults."""
        return self.trees or Trees()

    def longest(self, history: HistoryConfig) -> int:
        """Events of a history that some part of a model may read: the network, or trees through aggregates."""
        return max(history.length, self.aggregation.history_length)

    @property
    def raw_columns(self) -> tuple[str, ...]:
        """Columns that a clean table has under their own names, without duplicates: id, keys, amount, features,
        segments.
        """
        amount = () if self.event.amount is None else (self.event.amount,)
        return tuple(
            dict.fromkeys((self.event.id, *self.key_columns, *amount, *self.features.names, *self.evaluation.segments))
        )

    @cached_property
    def views(self) -> tuple[HistoryView, ...]:
        """The histories that the model sees of a payment, one for each column that names a key."""
        return tuple(view for history in self.history for view in history.views)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns that name keys, without duplicates."""
        return tuple(dict.fromkeys(column for history in self.history for column in history.columns))

    @property
    def role_names(self) -> tuple[str, ...]:
        """The features that say in which column an event has the key, of the histories with several."""
        return tuple(history.role_name for history in self.history if history.keys is not None)

    @property
    def number_columns(self) -> frozenset[str]:
        """The clean columns that are numbers: numerical and engineered features, and the amount."""
        features, amount = self.features, self.event.amount
        names = {feature.name for feature in (*features.numerical, *features.engineered)}
        return frozenset(names if amount is None else names | {amount})

    @property
    def role_rules(self) -> tuple[RowRule, ...]:
        """The rules that give events other roles than that of a payment which is scored and has an outcome."""
        return (*self.event.role_rules, *(() if self.label.decision is None else (self.label.decision,)))

    @property
    def derived_names(self) -> frozenset[str]:
        """The clean columns that are computed, so that a log does not have them."""
        return frozenset(feature.name for feature in self.features.derivations)
