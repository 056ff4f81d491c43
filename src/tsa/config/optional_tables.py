"""The tables of a market file that not every market has: `[inline_history]`, rows that carry their own history,
`[privacy]`, `[reasons]`,
`[serving]`, `[legacy]`.

It knows the rules that can be checked inside each. It does not know how rows are read, nor how a secret is found.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tsa.config.tables import Column, ConfigModel
from tsa.times import DAY_SECONDS

MAX_SEPARATOR_BYTES = 8

REASONS: dict[str, str] = {
    "higher_than_usual": "{feature} {ratio} times this {history}'s usual",
    "lower_than_usual": "{feature} only {ratio} times this {history}'s usual",
    "near_usual": "{feature} {value}, near this {history}'s usual {usual}",
    "other_than_usual": "{feature} {value}, this {history}'s usual is {usual}",
    "new_value": "new {feature} for this {history}",
    "known_value": "{feature} {value}, as in {count} of this {history}'s {total} earlier payments",
    "unknown_value": "{feature} {value}, which the model does not know",
    "missing_value": "{feature} missing",
    "value": "{feature} {value}",
    "unusual_time": "unusual {feature} for this {history}",
    "usual_time": "usual {feature} for this {history}",
    "known_fraud": "{history} had a known fraud in the last {span}",
    "known_frauds": "{history} had {count} known frauds in the last {span}",
    "no_known_fraud": "no fraud known of this {history}, outcomes known: {total}",
    "many_payments": "{count} payments of this {history} in the last {span}",
    "after_pause": "first payment of this {history} for {span}",
    "few_payments": "{count} earlier payments of this {history} in {span}",
}
"""The reasons that there are, by code, with their texts; what stands in braces is filled in."""


def _spelled(value: object) -> object:
    """A number is spelled as wire rows spell it."""
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Pattern = Annotated[str, Field(min_length=1)]


Unwise = Literal[
    "later_payment", "unlike_ids", "unlike_times", "unlike_batches", "implausible_time", "loose_number", "null_category"
]
"""What the legacy scores, and a market with its rules may refuse all the same (docs/wire-format.md)."""


class InlineHistoryFields(ConfigModel):
    """Where one history's fields have other names than the wire table's patterns say."""

    history_field: Pattern | None = None
    event_field: Pattern | None = None
    field_names: dict[str, str] = Field(default_factory=dict)


class InlineHistory(ConfigModel):
    """Rows that carry their own history: per feature one text of earlier values, oldest first.

    separator           stands between the values of a history
    missing             texts that mean "no value", in the row itself and inside a history
    history_field       name of the field with a feature's earlier values. It fills in {feature} or {feature_lower} (in lower
                        case, `_` in the place of each dot), {history}, and {part}, the one of `blocks` the feature is of
    event_field       name of the fields with the times and ids of the earlier payments, which stand once beside the
                        categorical and once beside the numerical values; filled in alike, the feature is event.time or event.id
    prefixes            how a name begins -> what stands there in its place once it is filled in; the longest that fits counts
    exceptions          feature -> field, or "part.feature" -> field, where a name does not follow its pattern
    numeric_categorical categorical features that hold numbers: "3.0" is "3"
    decimal_categorical categorical features that hold numbers with a fraction: ".950" is "0.95", "0.0" is "0"
    batches             one feature of each batch of fields that is written by itself: a history is empty where the field of one
                        is a missing marker; where they differ in length, each field keeps as many of its last values as the
                        shortest of these has
    rules               "legacy": rows are read as the legacy system's handlers read them. An import asks for that, unless this
                        says "own"
    refuse              with the legacy system's rules: what of all that is refused nevertheless
    defaults            feature -> what a missing value counts as; without one, missing is a value of its own
    age_cap_seconds     an event never counts as older than this, in the network too; with the legacy system's rules, a row that
                        tells of an older one is refused
    mismatched          what becomes of a history whose two parts tell of different payments: keep those that both know
                        ("align"), forget the history ("drop"), or refuse the row
    histories           per history: patterns and exceptions of its own
    """

    separator: str
    missing: tuple[str, ...] = ("",)
    history_field: Pattern = "hist.{feature}"
    event_field: Pattern = "hist.{part}.{feature}"
    blocks: tuple[str, str] = ("cat", "num")
    prefixes: dict[Pattern, str] | None = None
    field_names: dict[str, str] = Field(default_factory=dict)
    numeric_categorical: tuple[Column, ...] = ()
    decimal_categorical: tuple[Column, ...] | None = None
    batches: tuple[Column, ...] | None = None
    rules: Literal["own", "legacy"] | None = None
    refuse: tuple[Unwise, ...] | None = None
    defaults: dict[str, Annotated[str, BeforeValidator(_spelled)]] = Field(default_factory=dict)
    age_cap_seconds: float = Field(default=1e7, gt=0, allow_inf_nan=False)
    on_mismatch: Literal["align", "drop", "refuse"] = "align"
    histories: dict[str, InlineHistoryFields] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _texts(self) -> Self:
        size = len(self.separator.encode())
        if not 1 <= size <= MAX_SEPARATOR_BYTES or set(self.separator) & set("\t\r\n\0"):
            rule = f"separator must be 1 to {MAX_SEPARATOR_BYTES} bytes without tabs, line breaks or zeros"
            raise ValueError(f"{rule} (got {self.separator!r})")
        if clash := [text for text in self.missing if self.separator in text]:
            raise ValueError(f"missing: a marker must not hold the separator (got {clash[0]!r})")
        if self.blocks[0] == self.blocks[1]:
            raise ValueError(f"parts: must be two different names (got {list(self.blocks)})")
        return self

    @property
    def legacy(self) -> bool:
        """Whether rows are read as the legacy system's handlers read them."""
        return self.rules == "legacy"

    def accepts(self, what: Unwise) -> bool:
        """Whether rows with this are scored, as the legacy system does."""
        return self.legacy and what not in (self.refuse or ())

    def field(self, history: str, part: str, feature: str) -> str:
        """The field with the earlier values of a feature, which is of this part."""
        own = self.histories.get(history, InlineHistoryFields())
        known = {**self.field_names, **own.field_names}
        return known.get(feature) or self._filled(own.history_field or self.history_field, history, part, feature)

    def event_field_name(self, history: str, part: str, feature: str) -> str:
        """The field with the times or ids of the earlier payments, beside the values of one part."""
        own = self.histories.get(history, InlineHistoryFields())
        known = {**self.field_names, **own.field_names}
        pattern = own.event_field or self.event_field
        return known.get(f"{part}.{feature}") or self._filled(pattern, history, part, feature)

    def _filled(self, pattern: str, history: str, part: str, feature: str) -> str:
        """In one pass, not by format: a feature's name may hold braces, and other braces mean nothing."""
        prefixes = self.prefixes or {}
        begin = max((begin for begin in prefixes if feature.startswith(begin)), key=len, default="")
        shown = prefixes.get(begin, "") + feature[len(begin) :]
        names = {"history": history, "part": part, "feature": shown}
        names["feature_lower"] = shown.lower().replace(".", "_")
        return re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], found[0]), pattern)


Positions = tuple[Annotated[int, Field(ge=0)], ...]


class LeftOut(ConfigModel):
    """Positions of the scale arrays, from 0 on, that belong to no feature of the market, by kind of feature."""

    numerical: Positions = ()
    engineered: Positions = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        for kind in ("numerical", "engineered"):
            positions = getattr(self, kind)
            if len(set(positions)) < len(positions):
                raise ValueError(f"{kind}: each position must stand there once (got {list(positions)})")
        return self


class LegacyArtifacts(ConfigModel):
    """What `tsa legacy import` needs to know beside the folder (docs/legacy.md).

    leave_out  positions of the preprocessor's arrays that the legacy system's handler deletes as it loads them
    defaults   feature -> what a missing value counts as, where default_value_dict.json has none
    """

    leave_out: LeftOut = LeftOut()
    defaults: dict[str, Annotated[str, BeforeValidator(_spelled)]] = Field(default_factory=dict)


class Privacy(ConfigModel):
    """What the law asks of a market.

    pseudonymise    columns (ids, keys, categorical features, segments) that are replaced by a keyed hash as they are read
    secret_env      the environment variable that holds the key of that hash; its value is never stored
    forbidden       attributes that must not be used, in any spelling of capitals
    retention_days  events older than this, seen from the current payment, are not part of its history
    """

    pseudonymise: tuple[Column, ...] = ()
    secret_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    forbidden: tuple[Column, ...] = ()
    retention_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        if self.pseudonymise and self.secret_env is None:
            raise ValueError(
                "pseudonymise needs secret_env, the environment variable with the key, but it is not given"
            )
        return self

    @property
    def retention_seconds(self) -> float:
        """How long events are seen; infinite where nothing is said."""
        return math.inf if self.retention_days is None else self.retention_days * DAY_SECONDS


class Reasons(ConfigModel):
    """How the reasons of a score are worded (docs/reasons.md).

    most   so many reasons at most are given
    names  feature or history -> what it is called in a text; without one, its own name
    texts  reason -> text. A reason is a code of `REASONS`, or "CODE:NAME" for one feature or history
    codes  reason -> the team's own code for it
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
                rule = f"texts.{reason}: must fill in nothing but {', '.join(sorted(known))}"
                raise ValueError(f"{rule} (got {{{unknown[0]}}})")
        return self

    @property
    def subjects(self) -> set[str]:
        """Every feature or history that is named."""
        reasons = [reason.split(":", 1)[1] for table in (self.texts, self.codes) for reason in table if ":" in reason]
        return {*self.names, *reasons}

    def text(self, code: str, subject: str) -> str:
        """The text of a reason for a feature or history, not filled in."""
        return self.texts.get(f"{code}:{subject}") or self.texts.get(code) or REASONS[code]

    def code(self, code: str, subject: str) -> str:
        """What the team calls a reason."""
        return self.codes.get(f"{code}:{subject}") or self.codes.get(code) or code


def placeholders(text: str) -> set[str]:
    """What stands in braces."""
    return set(re.findall(r"\{(\w+)\}", text))


class Serving(ConfigModel):
    """What the endpoint refuses, and what it does when it cannot read histories.

    unknown_fields      fields that are no columns of the market are ignored, or refused
    max_future_seconds  a payment must not be later than the server's clock by more
    max_late_days       a payment must not be earlier than the last one of its keys by more; None: however late
    on_history_unavailable     histories cannot be read (or not in `history_timeout_seconds`): refuse the payment, or
                               score it without
                        and say so ("degraded")
    """

    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    max_future_seconds: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    max_late_days: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    on_history_unavailable: Literal["reject", "degraded"] = "reject"
    history_timeout_seconds: float = Field(default=1.0, gt=0, allow_inf_nan=False)
