"""The histories of payments, as the endpoint would have them."""

from __future__ import annotations

from tsa.config.market import Market
from tsa.data.online.encoded import EncodedPayments
from tsa.data.online.histories import HistoryEvents


def past_of(payments: EncodedPayments, market: Market) -> dict[tuple[str, str], HistoryEvents]:
    """The events of each history and key."""
    past = {}
    for history in market.history:
        keys = list(zip(*(payments.keys[view.name] for view in history.views), strict=True))
        for key in {key for of_payment in keys for key in of_payment if key is not None}:
            rows = [row for row, others in enumerate(keys) if key in others]
            past[history.name, key] = HistoryEvents.of(payments.take(rows))
    return past
