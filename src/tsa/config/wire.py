"""The `[wire]` table of a market file: how rows carry the histories of their payments."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tsa.config.base import Column, ConfigModel

MAX_SEPARATOR_BYTES = 8


def spelled(value: object) -> object:
    """Convert a number to text as wire rows write it."""
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Pattern = Annotated[str, Field(min_length=1)]


Unwise = Literal[
    "later_payment", "unlike_ids", "unlike_times", "unlike_batches", "implausible_time", "loose_number", "null_category"
]
"""What the legacy system scores, and a market with legacy rules may still refuse (docs/reference/wire-format.md)."""


class InlineHistoryFields(ConfigModel):
    """Field names of one history that differ from the patterns of [wire]."""

    history_field: Pattern | None = None
    event_field: Pattern | None = None
    exceptions: dict[str, str] = Field(default_factory=dict)


class InlineHistory(ConfigModel):
    """Rows that carry their own history: per feature one text with the earlier values, oldest first.

    Attributes:
        separator: Separates the values of a history.
        missing: Texts that mean "no value", in the row itself and in a history.
        history_field: Name pattern of the field with a feature's earlier values. Placeholders: {feature},
            {feature_lower} (in lower case, with `_` for each dot), {history}, and {part}, the one of `parts` that
            has the feature.
        event_field: Name pattern of the fields with the times and ids of the earlier payments. There is one for the
            categorical and one for the numerical values; {feature} is event.time or event.id.
        parts: Names of the categorical and the numerical part.
        prefixes: Prefix of a feature name -> its replacement in field names. The longest matching prefix counts.
        exceptions: Feature -> field, or "part.feature" -> field, where a name does not follow its pattern.
        numeric_categorical: Categorical features that hold numbers: "3.0" is "3".
        decimal_categorical: Categorical features that hold decimal numbers: ".950" is "0.95", "0.0" is "0".
        batches: One feature of each batch of fields that is written separately. A history is empty if the field of
            one of them is a missing marker. If they differ in length, each field is cut to as many of its last
            values as the shortest has.
        rules: "legacy": rows are read as the legacy handlers do. An import sets that, unless this is "own".
        refuse: With the legacy rules: which of the accepted irregularities to refuse.
        defaults: Feature -> value used for a missing one. Without a default, missing is a separate value.
        age_cap_seconds: Ages of events are capped at this, in the network too. With the legacy rules, a row with an
            older event is refused.
        mismatched: If the two parts of a history contain different payments: use those in both ("align"), ignore
            the history ("drop"), or refuse the row ("refuse").
        histories: Patterns and exceptions by history.
    """

    separator: str
    missing: tuple[str, ...] = ("",)
    history_field: Pattern = "hist.{feature}"
    event_field: Pattern = "hist.{part}.{feature}"
    parts: tuple[str, str] = ("cat", "num")
    prefixes: dict[Pattern, str] | None = None
    exceptions: dict[str, str] = Field(default_factory=dict)
    numeric_categorical: tuple[Column, ...] = ()
    decimal_categorical: tuple[Column, ...] | None = None
    batches: tuple[Column, ...] | None = None
    rules: Literal["own", "legacy"] | None = None
    refuse: tuple[Unwise, ...] | None = None
    defaults: dict[str, Annotated[str, BeforeValidator(spelled)]] = Field(default_factory=dict)
    age_cap_seconds: float = Field(default=1e7, gt=0, allow_inf_nan=False)
    mismatched: Literal["align", "drop", "refuse"] = "align"
    histories: dict[str, InlineHistoryFields] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _texts(self) -> Self:
        size = len(self.separator.encode())
        if not 1 <= size <= MAX_SEPARATOR_BYTES or set(self.separator) & set("\t\r\n\0"):
            rule = f"separator must be 1 to {MAX_SEPARATOR_BYTES} bytes without tabs, line breaks or zeros"
            raise ValueError(f"{rule} (got {self.separator!r})")
        if clash := [text for text in self.missing if self.separator in text]:
            raise ValueError(f"missing: a marker must not contain the separator (got {clash[0]!r})")
        if self.parts[0] == self.parts[1]:
            raise ValueError(f"parts: must be two different names (got {list(self.parts)})")
        return self

    @property
    def legacy(self) -> bool:
        """Whether rows are read as the legacy handlers do."""
        return self.rules == "legacy"

    def accepts(self, what: Unwise) -> bool:
        """Whether rows with this irregularity are scored, as in the legacy system."""
        return self.legacy and what not in (self.refuse or ())

    def field(self, history: str, part: str, feature: str) -> str:
        """The field with the earlier values of a feature of this part."""
        own = self.histories.get(history, InlineHistoryFields())
        known = {**self.exceptions, **own.exceptions}
        return known.get(feature) or self._filled(own.history_field or self.history_field, history, part, feature)

    def event_field_name(self, history: str, part: str, feature: str) -> str:
        """The field with the times or ids of the earlier payments of one part."""
        own = self.histories.get(history, InlineHistoryFields())
        known = {**self.exceptions, **own.exceptions}
        pattern = own.event_field or self.event_field
        return known.get(f"{part}.{feature}") or self._filled(pattern, history, part, feature)

    def _filled(self, pattern: str, history: str, part: str, feature: str) -> str:
        """Fill in all placeholders in one pass, without `str.format`: a feature's name, like the pattern, may contain
        other braces.
        """
        prefixes = self.prefixes or {}
        begin = max((begin for begin in prefixes if feature.startswith(begin)), key=len, default="")
        name = prefixes.get(begin, "") + feature[len(begin) :]
        names = {"history": history, "part": part, "feature": name}
        names["feature_lower"] = name.lower().replace(".", "_")
        return re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], match[0]), pattern)
