"""Champion and challenger: which of two bundles answers a payment.

A hash of the payment's key decides, so that all payments of a customer are answered by the same bundle, on every replica and
after every restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from tsa.config.market import Market, Serving
from tsa.data.spelling import Spelling
from tsa.data.values import RuleViolationError, normalise_text
from tsa.errors import ConfigError
from tsa.serving.results import CHALLENGER, CHAMPION

Row = Mapping[str, Any]
HASH_BYTES = 8


class ArmSplit:
    """Assigns payments to arms."""

    def __init__(self, market: Market, share: float, split_by: str | None) -> None:
        """Args:
            share: Share of the keys that the challenger answers, in [0, 1].
            split_by: A history, whose key is hashed; None for the first one. Payments without a key are hashed by id.

        Raises:
            ConfigError: The market has no such history.
        """
        histories = {history.name: history for history in market.history}
        name = split_by or next(iter(histories), None)
        if name is not None and name not in histories:
            raise ConfigError(f"--split-by must be a history of the market: {', '.join(histories)} (got {name})")
        own = () if name is None else histories[name].columns
        self._columns = (*own, market.event.id)
        salt = (market.serving or Serving()).split_salt or market.name
        self._prefix, self._spelling = f"{salt}\0{name or ''}\0".encode(), Spelling.of(market)
        self._limit = share * 2.0 ** (8 * HASH_BYTES)

    def arm(self, row: Row) -> str:
        """The arm of a payment as it was sent."""
        for name in self._columns:
            try:
                key = normalise_text(row.get(name), name, self._spelling)
            except RuleViolationError:
                return CHAMPION  # it will be refused
            if key is not None:
                digest = hashlib.sha256(self._prefix + key.encode("utf-8", "surrogatepass")).digest()
                is_below = int.from_bytes(digest[:HASH_BYTES], "big") < self._limit
                return CHALLENGER if is_below else CHAMPION
        return CHAMPION
