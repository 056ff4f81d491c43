"""Words for messages and pages."""

from __future__ import annotations

PLURALS = {
    "fraud with an amount": "frauds with an amount",
    "payment at or above the threshold": "payments at or above the threshold",
    "fraud or payment at or above the threshold": "frauds or payments at or above the threshold",
    "entity with a fraud": "entities with a fraud",
    "payment with an entity": "payments with an entity",
}
"""Of what is more than a noun."""


def plural(n: int, what: str) -> str:
    """1 fraud, 2 frauds with an amount."""
    return f"{n:,} {what if n == 1 else PLURALS.get(what, f'{what}s')}"
