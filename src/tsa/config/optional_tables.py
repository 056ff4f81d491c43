"""The optional sections of a market file: `[wire]`, `[privacy]`, `[reasons]`, `[serving]`, `[trees]`, `[legacy]`.

Each model checks the rules within its section.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tsa.config.base import Column, ConfigModel
from tsa.times import DAY_SECONDS

MAX_SEPARATOR_BYTES = 8

REASONS: dict[str, str] = {
    "higher_than_usual": "{feature} {ratio} times this {history}'s usual",
    "lower_than_usual": "{feature} only {ratio} times this {history}'s usual",
    "near_usual": "{feature} {value}, near this {history}'s usual {usual}",
    "in_usual_range": "{feature} {value}, within this {history}'s usual {low} to {high}",
    "other_than_usual": "{feature} {value}, this {history}'s usual is {usual}",
    "new_value": "new {feature} for this {history}",
    "known_value": "{feature} {value}, as in {count} of this {history}'s {total} earlier payments",
    "new_key": "new {feature} for this {history}",
    "known_key": "same {feature} as in {count} of this {history}'s {total} earlier payments",
    "rare_value": "{feature} {value}, in only {count} of this {history}'s {total} earlier payments",
    "recent_value": "{feature} {value}, first seen for this {history} in the last {span}",
    "unknown_value": "{feature} {value}, which the model does not know",
    "missing_value": "{feature} missing",
    "value": "{feature} {value}",
    "unusual_time": "unusual {feature} for this {history}",
    "usual_time": "usual {feature} for this {history}",
    "known_fraud": "{history} had a known fraud in the last {span}",
    "known_frauds": "{history} had {count} known frauds in the last {span}",
    "no_known_fraud": "no fraud known of this {history}, outcomes known: {total}",
    "many_payments": "{count} payments of this {history} in the last {span}",
    "more_payments": "{count} payments of this {history} in the last {span}, usually {usual}",
    "aggregate": "{fact}",
    "after_pause": "first payment of this {history} for {span}",
    "few_payments": "{count} earlier payments of this {history} in {span}",
    "combination": "in combination: {values}",
}
"""Default text of each reason by code. Names in braces are placeholders."""


def _spelled(value: object) -> object:
    """Convert a number to text as wire rows write it."""
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Pattern = Annotated[str, Field(min_length=1)]


Unwise = Literal[
    "later_payment", "unlike_ids", "unlike_times", "unlike_batches", "implausible_time", "loose_number", "null_category"
]
"""What the legacy system scores, and a market with legacy rules may still refuse (docs/wire-format.md)."""


_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}


class Trees(ConfigModel):
    """What the boosted trees see of a history: aggregates of its last events.

    Attributes:
        history_length: Events of each key that aggregates reach back over, the current one included. A history
            store keeps as many where the bundle has trees.
        windows: Lengths of time that events are counted and summed over, such as "30m", "1h" or "7d", in addition to
            all events.
    """

    history_length: int = Field(default=256, ge=2, le=100_000)
    windows: tuple[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}[mhd]$")], ...] = ("1h", "1d", "7d", "30d")

    @model_validator(mode="after")
    def _longer_and_longer(self) -> Self:
        seconds = self.window_seconds
        if any(later <= earlier for earlier, later in itertools.pairwise(seconds)):
            raise ValueError(f"windows must become longer and longer (got {list(self.windows)})")
        return self

    @property
    def window_seconds(self) -> tuple[int, ...]:
        """The windows in seconds."""
        return tuple(int(window[:-1]) * _UNIT_SECONDS[window[-1]] for window in self.windows)


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
    defaults: dict[str, Annotated[str, BeforeValidator(_spelled)]] = Field(default_factory=dict)
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


Positions = tuple[Annotated[int, Field(ge=0)], ...]


class LeftOut(ConfigModel):
    """Positions (from 0) in the scale arrays that belong to no feature of the market, by kind of feature."""

    numerical: Positions = ()
    engineered: Positions = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        for kind in ("numerical", "engineered"):
            positions = getattr(self, kind)
            if len(set(positions)) < len(positions):
                raise ValueError(f"{kind}: each position must occur once (got {list(positions)})")
        return self


class LegacyArtifacts(ConfigModel):
    """What `tsa legacy import` needs in addition to the folder (docs/legacy.md).

    Attributes:
        leave_out: Positions of the preprocessor's arrays that the legacy handler deletes when it loads them.
        defaults: Feature -> value used for a missing one, if default_value_dict.json has none.
    """

    leave_out: LeftOut = LeftOut()
    defaults: dict[str, Annotated[str, BeforeValidator(_spelled)]] = Field(default_factory=dict)


class Privacy(ConfigModel):
    """Privacy settings of a market.

    Attributes:
        pseudonymise: Columns (ids, keys, categorical features, segments) whose values are replaced by a keyed hash
            when read.
        secret_env: The environment variable with the key of that hash. Its value is never stored.
        forbidden: Attributes that must not be used, in upper or lower case.
        retention_days: Events older than this, seen from the current payment, are not part of its history.
    """

    pseudonymise: tuple[Column, ...] = ()
    secret_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    forbidden: tuple[Column, ...] = ()
    retention_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        if self.pseudonymise and self.secret_env is None:
            raise ValueError(
                "pseudonymise needs secret_env, the name of the environment variable with the key (got none)"
            )
        return self

    @property
    def retention_seconds(self) -> float:
        """How long events are visible; infinite if not limited."""
        return math.inf if self.retention_days is None else self.retention_days * DAY_SECONDS


class Reasons(ConfigModel):
    """Names and texts of the reasons for a score (docs/reasons.md).

    Attributes:
        most: Most reasons given.
        names: Feature or history -> its name in a text. Default: the name in the market.
        texts: Reason -> text. A reason is a code of `REASONS`, or "CODE:NAME" for one feature or history.
        codes: Reason -> the team's own code for it.
    """

    most: int = Field(default=8, ge=1)
    names: dict[str, str] = Field(default_factory=dict)
    texts: dict[str, str] = Field(default_factory=dict)
    codes: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for table in ("texts", "codes"):
            for reason in getattr(self, table):
                if reason.split(":")[0] not in REASONS:
                    rule = f"{table}: must be of {', '.join(REASONS)}, or CODE:NAME"
                    raise ValueError(f"{rule} (got {reason!r})")
        for reason, text in self.texts.items():
            known = placeholders(REASONS[reason.split(":")[0]])
            known |= {"value"} if "feature" in known else set()
            if unknown := sorted(placeholders(text) - known):
                rule = f"texts.{reason}: must use only the placeholders {', '.join(sorted(known))}"
                raise ValueError(f"{rule} (got {{{unknown[0]}}})")
        return self

    @property
    def subjects(self) -> set[str]:
        """Every feature or history that these settings name."""
        reasons = [reason.split(":", 1)[1] for table in (self.texts, self.codes) for reason in table if ":" in reason]
        return {*self.names, *reasons}

    def text(self, code: str, subject: str) -> str:
        """The text of a reason for a feature or history, with placeholders."""
        return self.texts.get(f"{code}:{subject}") or self.texts.get(code) or REASONS[code]

    def code(self, code: str, subject: str) -> str:
        """The team's code for a reason."""
        return self.codes.get(f"{code}:{subject}") or self.codes.get(code) or code


def placeholders(text: str) -> set[str]:
    """The names in braces."""
    return set(re.findall(r"\{(\w+)\}", text))


class Serving(ConfigModel):
    """What the endpoint refuses, and what it does when it cannot read histories.

    Attributes:
        unknown_fields: Ignore or refuse fields that are not columns of the market.
        max_future_seconds: How much later than the server's clock a payment may be.
        max_late_days: How much earlier than the last payment of its keys a payment may be. None: any time.
        on_history_unavailable: If histories cannot be read within `history_timeout_seconds`: refuse the payment
            ("reject"), or score it without histories and report that ("degraded").
        split_salt: Hashed with the key that decides between champion and challenger. None: the market's name.
    """

    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    max_future_seconds: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    max_late_days: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    on_history_unavailable: Literal["reject", "degraded"] = "reject"
    history_timeout_seconds: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    split_salt: str | None = Field(default=None, min_length=1)
