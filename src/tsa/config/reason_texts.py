"""The `[reasons]` table of a market file: the texts of reasons, and their names and codes."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, model_validator

from tsa.config.base import ConfigModel

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


class Reasons(ConfigModel):
    """Names and texts of the reasons for a score (docs/concepts/reasons.md).

    Attributes:
        most: Largest number of reasons given.
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
