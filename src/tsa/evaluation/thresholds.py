"""What reviewing payments at or above a threshold catches, costs and saves, for a team with a daily capacity.

Each UTC day the team reviews flagged payments, the riskiest first, until its capacity is used up; the rest of that day
is not reviewed. Use `choose_thresholds`.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError
from tsa.evaluation.blocked_keys import count_keys
from tsa.evaluation.daily_queue import Costs, DailyQueue, savings
from tsa.evaluation.metrics.bootstrap import MINIMUM_EVENTS, check_settings, interval, poisson_one
from tsa.evaluation.metrics.scored_payments import Array, ScoredPayments
from tsa.evaluation.review_and_decline import choose_review_and_decline

PER_DAY = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Average flagged payments per day of the thresholds in the table."""

FAR = 5
"""The table ends at this multiple of the capacity."""

CONFIDENCE = 0.95


def choose_thresholds(
    payments: ScoredPayments, costs: Costs, *, probability: Array | None = None, replicates: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Compare thresholds and select the best.

    Returns:
        `rows`: what each threshold catches, costs and saves. `best`: the one that saves most, or fills the capacity if
        losses are not known. `by_expected_loss`: the same for reviewing payments whose probability × loss exceeds the
        cost of a review, highest expected loss first; None without probability (n,) or losses. `policy`: thresholds to
        review and to decline from, chosen together; None without a cost of a false decline. With entities, each
        of these but `by_expected_loss` has their counts under `keys`: see `tsa.evaluation.blocked_keys`.

    Raises:
        ConfigError: If there is neither a loss nor a capacity to choose by, no loss for a decline threshold, or a negative
            number of replicates.
    """
    check_settings(replicates=replicates, confidence=CONFIDENCE)
    queue = DailyQueue.of(payments, np.asarray(payments.score, np.float64), costs)
    if queue.value is None and costs.capacity is None:
        raise ConfigError("choosing a threshold needs amounts, a cost of a missed fraud, or a review capacity")
    best = _best(queue, costs)
    recommended = None
    if best is not None:
        recommended = {**_row(queue, best, costs), **_net_interval(queue, best, costs, replicates, seed)}
    policy = None if costs.false_decline is None else choose_review_and_decline(payments, costs)
    rows = [_row(queue, cut, costs) for cut in sorted(_cuts(queue, costs, best))]
    if payments.entity is not None:
        for row in (*rows, *([recommended] if recommended else [])):
            row["keys"] = count_keys(payments, review=row["threshold"], capacity=costs.capacity)
        if policy is not None:
            policy["keys"] = count_keys(
                payments, review=policy["review"], decline=policy["decline"], capacity=costs.capacity
            )
    value = None if queue.value is None else float(queue.value[queue.fraud].sum() / costs.recovered)
    return {
        "n": len(queue.score),
        "frauds": int(queue.fraud.sum()),
        "fraud_value": value,
        "days": queue.days,
        "rows": rows,
        "best": recommended,
        "policy": policy,
        "by_expected_loss": _by_expected_loss(payments, costs, probability),
        "frauds_with_amount": _frauds_with_amount(payments, costs),
        "costs": asdict(costs),
    }


def outcome_at(
    payments: ScoredPayments, costs: Costs, threshold: float | None, *, replicates: int = 200, seed: int = 0
) -> dict[str, Any]:
    """What reviewing payments with a score of at least `threshold` catches, costs and saves; None: review nothing.

    For a threshold that was chosen on other payments, as one in use always is.

    Returns:
        As a row of `choose_thresholds`, with the interval of the net saving.
    """
    check_settings(replicates=replicates, confidence=CONFIDENCE)
    queue = DailyQueue.of(payments, np.asarray(payments.score, np.float64), costs)
    cut = -1 if threshold is None else int(np.count_nonzero(queue.score >= threshold)) - 1
    row = {**_row(queue, cut, costs), **_net_interval(queue, cut, costs, replicates, seed)}
    return {**row, "threshold": threshold, "days": queue.days}


def _frauds_with_amount(payments: ScoredPayments, costs: Costs) -> int | None:
    """The number of frauds with a loss above 0 by amount; None if losses do not depend on amounts."""
    if payments.amount is None or costs.fraud is not None:
        return None
    return int(np.count_nonzero(payments.amount[payments.label == 1] > 0))


def _cuts(queue: DailyQueue, costs: Costs, best: int | None) -> set[int]:
    """The thresholds of the table; far beyond the capacity nothing changes any more."""
    if not len(queue.ends):
        return set()
    max_per_day = math.inf if costs.capacity is None else FAR * costs.capacity
    volumes = [per_day for per_day in PER_DAY if per_day <= max_per_day] + ([costs.capacity] if costs.capacity else [])
    return {_cut_at(queue, per_day * queue.days) for per_day in volumes} | ({best} if best is not None else set())


def _best(queue: DailyQueue, costs: Costs) -> int | None:
    """The cut that saves most; if losses are not known, the one that fills the capacity. None: review nothing."""
    if not len(queue.ends):
        return None
    if queue.value is None:
        assert costs.capacity is not None
        return _cut_at(queue, costs.capacity * queue.days)
    gain = np.cumsum(queue.seen * (queue.fraud * queue.value - costs.review))[queue.ends]
    at = int(np.argmax(gain))
    return int(queue.ends[at]) if gain[at] > 0 else None


def _cut_at(queue: DailyQueue, flagged: int) -> int:
    """The last end of a distinct score with at most `flagged` payments flagged; else the first one."""
    fitting = int(np.searchsorted(queue.ends, flagged, side="left"))
    return int(queue.ends[max(fitting - 1, 0)]) if len(queue.ends) else -1


def _row(queue: DailyQueue, cut: int, costs: Costs) -> dict[str, Any]:
    """The results of the threshold at position `cut` of the queue."""
    flagged = slice(0, cut + 1)
    threshold = float(queue.score[cut]) if cut >= 0 else None
    per_day = np.bincount(queue.day[flagged], minlength=queue.days)
    over = 0 if costs.capacity is None else int((per_day > costs.capacity).sum())
    busiest = int(per_day.max(initial=0))
    return {
        "threshold": threshold,
        "flagged": cut + 1,
        "busiest_day": busiest,
        "days_over_capacity": over,
        **_outcome(queue, queue.seen[flagged], flagged, costs),
    }


def _outcome(queue: DailyQueue, reviewed: NDArray[np.bool_], part: slice, costs: Costs) -> dict[str, Any]:
    """Counts, costs and savings of the reviewed payments."""
    count, frauds = int(reviewed.sum()), int(queue.fraud.sum())
    caught = int((reviewed & queue.fraud[part]).sum())
    result: dict[str, Any] = {
        "reviewed": count,
        "reviewed_per_day": count / queue.days if queue.days else 0.0,
        "caught": caught,
        "precision": caught / count if count else None,
        "recall": caught / frauds if frauds else None,
        "cost": count * costs.review,
    }
    if queue.value is None:
        return {**result, "saved": None, "net": None, "missed": None}
    saved = float(queue.value[part][reviewed & queue.fraud[part]].sum())
    missed = float(queue.value[queue.fraud].sum()) - saved
    return {**result, "saved": saved, "net": saved - result["cost"], "missed": missed}


def _net_interval(queue: DailyQueue, cut: int, costs: Costs, replicates: int, seed: int) -> dict[str, Any]:
    """95 % interval of the net saving by Poisson bootstrap."""
    reviewed = np.flatnonzero(queue.seen[: cut + 1])
    fraud, value = queue.fraud[reviewed], queue.value
    if value is None or not replicates or fraud.sum() < MINIMUM_EVENTS:
        return {"net_low": None, "net_high": None}
    gain = fraud * value[reviewed] - costs.review
    generator = np.random.default_rng(seed)
    drawn = np.array([poisson_one(generator, len(gain)) @ gain for _ in range(replicates)])
    low, high = interval(drawn, CONFIDENCE, float(gain.sum()))
    return {"net_low": low, "net_high": high}


def _by_expected_loss(payments: ScoredPayments, costs: Costs, probability: Array | None) -> dict[str, Any] | None:
    """Review payments whose expected loss exceeds the cost: the better rule if amounts differ and probabilities are right."""
    value = savings(payments, costs)
    if value is None or probability is None:
        return None
    worth = np.asarray(probability, np.float64) * np.nan_to_num(value)
    queue = DailyQueue.of(payments, worth, costs)
    reviewed = queue.seen & (queue.score > costs.review)
    return _outcome(queue, reviewed, slice(None), costs)
