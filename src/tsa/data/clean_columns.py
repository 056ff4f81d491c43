"""Names of the columns that a clean log has in addition to the market's."""

from __future__ import annotations

TIME, LABEL, KNOWN_AT = "__time_seconds", "__label", "__known_at_seconds"
ROLE = "__role"
"""Of markets with event.scored, event.asks or label.decision: SCORED, HISTORY_ONLY, ASKS or DECLINED (Int8)."""

SCORED, HISTORY_ONLY, ASKS, DECLINED = 0, 1, 2, 3
"""A payment that is scored; an event that is only part of histories; one that is scored and in no later history; a payment
that was declined, so that it has no outcome."""
