"""Choose two thresholds together by cost: from one on, payments are reviewed; from a higher one on, they are declined.

Declining needs no review and saves all of a fraud's loss, but each genuine payment that is declined costs something.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tsa.errors import ConfigError
from tsa.evaluation.daily_queue import Costs, DailyQueue
from tsa.evaluation.metrics.scored_payments import ScoredPayments

CANDIDATES = 200
"""Decline thresholds that are tried. The review threshold below each is the best of all."""


def choose_review_and_decline(payments: ScoredPayments, costs: Costs) -> dict[str, Any]:
    """The decline threshold and the review threshold that save most together.

    Args:
        payments: n payments.
        costs: With `false_decline`; amounts or a cost of a fraud must be known.

    Returns:
        `decline` and `review`: the thresholds, None where nothing is declined or reviewed; `declined` and
        `declined_genuine` payments; `reviewed` payments; `caught` frauds of both; `cost`, `saved` and `net`.

    Raises:
        ConfigError: If losses or the cost of a false decline are not known.
    """
    if costs.false_decline is None:
        raise ConfigError("choosing a decline threshold needs the cost of declining a genuine payment (got none)")
    queue = DailyQueue.of(payments, np.asarray(payments.score, np.float64), costs)
    if queue.value is None:
        raise ConfigError("choosing a decline threshold needs amounts or a cost of a missed fraud (got neither)")
    decline_gain = np.where(queue.fraud, queue.value / costs.recovered, -costs.false_decline)
    declining = np.concatenate([[0.0], np.cumsum(decline_gain)])
    review_gain = queue.fraud * queue.value - costs.review
    best_net, best_pair = -np.inf, (0, 0)
    for n_declined in _candidates(queue):
        gain, end = _best_review(queue, review_gain, n_declined, costs)
        if declining[n_declined] + gain > best_net:
            best_net, best_pair = float(declining[n_declined] + gain), (n_declined, end)
    return _outcome(queue, *best_pair, costs, best_net)


def _candidates(queue: DailyQueue) -> list[int]:
    """How many payments each candidate declines: none, and counts at which a threshold can cut, denser at the top."""
    ends = queue.ends + 1
    if len(ends) > CANDIDATES:
        ends = ends[np.unique(np.geomspace(1, len(ends), CANDIDATES).astype(np.int64)) - 1]
    return [0, *ends.tolist()]


def _reviewed(queue: DailyQueue, n_declined: int, costs: Costs) -> Any:
    """(n - n_declined,) which payments the team would review if all that are not declined were flagged."""
    if costs.capacity is None:
        return np.ones(len(queue.score) - n_declined, bool)
    declined = np.bincount(queue.day[:n_declined], minlength=queue.days)
    return queue.place[n_declined:] - declined[queue.day[n_declined:]] < costs.capacity


def _best_review(queue: DailyQueue, review_gain: Any, n_declined: int, costs: Costs) -> tuple[float, int]:
    """What the best review threshold below a decline threshold saves, and the position where it ends."""
    ends = queue.ends[queue.ends >= n_declined]
    if not len(ends):
        return 0.0, n_declined
    gain = np.cumsum(_reviewed(queue, n_declined, costs) * review_gain[n_declined:])[ends - n_declined]
    at = int(np.argmax(gain))
    return (float(gain[at]), int(ends[at]) + 1) if gain[at] > 0 else (0.0, n_declined)


def _outcome(queue: DailyQueue, n_declined: int, end: int, costs: Costs, net: float) -> dict[str, Any]:
    assert costs.false_decline is not None
    reviewed = _reviewed(queue, n_declined, costs)[: end - n_declined]
    declined_frauds = int(queue.fraud[:n_declined].sum())
    genuine = n_declined - declined_frauds
    cost = genuine * costs.false_decline + int(reviewed.sum()) * costs.review
    return {
        "decline": float(queue.score[n_declined - 1]) if n_declined else None,
        "review": float(queue.score[end - 1]) if end > n_declined else None,
        "declined": n_declined,
        "declined_genuine": genuine,
        "reviewed": int(reviewed.sum()),
        "caught": declined_frauds + int((reviewed & queue.fraud[n_declined:end]).sum()),
        "cost": cost,
        "saved": net + cost,
        "net": net,
    }
