"""What thresholds catch and disturb, counted in cards or customers: one is blocked after its first catch.

Days are worked through one after the other, as in `tsa.evaluation.thresholds`. A card or customer with a fraud that was
declined or reviewed is blocked from the next UTC day on: its later frauds are prevented without another review.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import DataError
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.times import DAY_SECONDS

Rows = NDArray[np.intp]


def count_keys(
    payments: ScoredPayments, *, review: float | None, decline: float | None = None, capacity: int | None = None
) -> dict[str, Any]:
    """Work through the days with a review threshold and, if given, a decline threshold.

    Args:
        payments: n payments with an entity each; those without one (-1) are never blocked and not counted as a key.
        review: Payments with a score of at least this are reviewed; None for none.
        decline: Payments with a score of at least this are declined without a review; None for none.
        capacity: Reviews per day, the highest scores first; None for no limit.

    Returns:
        `keys`, `keys_with_fraud`, `keys_caught` (with a fraud that was declined or reviewed), `frauds_caught`,
        `frauds_prevented` (of blocked keys), `reviewed`, `declined`, `false_alarms` (genuine payments that were declined
        or reviewed), `keys_with_false_alarm`, and `false_alarms_per_key`.

    Raises:
        DataError: If the payments have no entities.
    """
    if payments.entity is None:
        raise DataError("counting cards or customers needs an entity for each payment (got none)")
    codes = np.unique(payments.entity, return_inverse=True)
    names, key = codes[0], codes[1].reshape(-1)
    has_key = payments.entity >= 0
    fraud = payments.label == 1
    blocked = np.zeros(len(names), bool)
    caught: list[Rows] = []
    alarms: list[Rows] = []
    reviewed = declined = prevented = 0
    for day in _days(payments):
        is_blocked = blocked[key[day]]
        prevented += int((fraud[day] & is_blocked).sum())
        rows = day[~is_blocked]
        is_declined = np.zeros(len(rows), bool) if decline is None else payments.score[rows] >= decline
        others = rows[~is_declined]
        to_review = others[:0] if review is None else others[payments.score[others] >= review][:capacity]
        stopped = np.concatenate([rows[is_declined], to_review])
        reviewed, declined = reviewed + len(to_review), declined + int(is_declined.sum())
        catches = stopped[fraud[stopped]]
        blocked[key[catches[has_key[catches]]]] = True
        caught.append(catches)
        alarms.append(stopped[~fraud[stopped]])
    false_alarms = _joined(alarms)
    n_keys = int((names >= 0).sum())
    return {
        "keys": n_keys,
        "keys_with_fraud": _distinct(key[fraud & has_key]),
        "keys_caught": int(blocked.sum()),
        "frauds_caught": len(_joined(caught)),
        "frauds_prevented": prevented,
        "reviewed": reviewed,
        "declined": declined,
        "false_alarms": len(false_alarms),
        "keys_with_false_alarm": _distinct(key[false_alarms[has_key[false_alarms]]]),
        "false_alarms_per_key": len(false_alarms) / n_keys if n_keys else None,
    }


def _days(payments: ScoredPayments) -> Iterator[Rows]:
    """The rows of each UTC day, the highest score first; among equal scores the earlier payment."""
    day = np.floor_divide(payments.time_seconds, DAY_SECONDS)
    order = np.lexsort((payments.time_seconds, -payments.score, day))
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(day[order])) + 1)


def _joined(parts: list[Rows]) -> Rows:
    return np.concatenate(parts) if parts else np.zeros(0, np.intp)


def _distinct(codes: NDArray[np.intp]) -> int:
    return len(np.unique(codes))
