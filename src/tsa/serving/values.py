"""How many payments lack a value of a feature, or have one that the model does not know: counted, never kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tsa.data.encoder import Encoder
from tsa.data.payments import BrokenRuleError
from tsa.data.spelling import Spelling
from tsa.data.values import text_of
from tsa.data.vocabulary import GivenVocabulary
from tsa.schema import Market


class ValueCounts:
    """Counts over rows as clients sent them. Values that the market veils are not looked at."""

    def __init__(self, encoder: Encoder, market: Market) -> None:
        self._names = market.features.names
        veiled = set() if market.privacy is None else set(market.privacy.pseudonymise)
        wire = market.wire
        self._spelling = Spelling.of(market)
        self._missing = frozenset() if wire is None else frozenset(wire.missing)
        self._known = {
            vocabulary.name: frozenset(
                vocabulary.row_of if isinstance(vocabulary, GivenVocabulary) else vocabulary.values
            )
            for vocabulary in encoder.categorical_vocabularies
            if vocabulary.name not in veiled and (wire is None or vocabulary.name not in wire.numeric_categorical)
        }

    def count(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
        """By feature: rows without a value, and rows with an unknown one. Features without any are absent."""
        missing: dict[str, int] = {}
        unknown: dict[str, int] = {}
        for row in rows:
            for name in self._names:
                value = row.get(name)
                if value is None or (type(value) is str and self._is_missing(value)):
                    missing[name] = missing.get(name, 0) + 1
                elif name in self._known and not self._is_known(name, value):
                    unknown[name] = unknown.get(name, 0) + 1
        return missing, unknown

    def _is_missing(self, text: str) -> bool:
        return text in self._missing or self._spelling.of_text(text) is None

    def _is_known(self, name: str, value: Any) -> bool:
        try:
            return text_of(value, name, self._spelling) in self._known[name]
        except BrokenRuleError:
            return False
