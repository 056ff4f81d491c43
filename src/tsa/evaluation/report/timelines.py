"""The report's history charts: a time line with events as dots sized by attribution, and attention as bars below.

The input is the result of `tsa.evaluation.report.top_payments`. Colours are CSS classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tsa.evaluation.report import formatting
from tsa.times import DAY_SECONDS

WIDTH, HEIGHT = 420, 152
LEFT, RIGHT = 14, 20
LINE, FLOOR, BAR = 44, 122, 34
"""Vertical positions of the time line and of the base of the bars, and maximum height of a bar."""
MIN_DOT, MAX_DOT = 2.0, 10.0
FOLD = 3_600.0
"""Ages are drawn as log1p(age / 1 h), so that an hour and a year fit on one axis."""
TICKS = (
    (3_600.0, "1 h"),
    (21_600.0, "6 h"),
    (DAY_SECONDS, "1 day"),
    (7 * DAY_SECONDS, "7 days"),
    (30 * DAY_SECONDS, "30 days"),
    (120 * DAY_SECONDS, "120 days"),
    (365 * DAY_SECONDS, "1 year"),
)
MIN_SPAN = DAY_SECONDS

Dict = Mapping[str, Any]


def reasons(result: Dict | None) -> dict[str, Any] | None:
    """The values that the template shows of the riskiest payments; None for a report without them."""
    if not result or not (result["payments"] or result["note"]):
        return None
    shown = [_payment(rank, payment) for rank, payment in enumerate(result["payments"], 1)]
    return {"note": result["note"], "payments": shown}


def _payment(rank: int, payment: Dict) -> dict[str, Any]:
    events = [event for history in payment["histories"] for event in history["events"]]
    max_attribution = max((abs(event["attribution"]) for event in events), default=0.0) or 1.0
    strongest = max((abs(reason["attribution"]) for reason in payment["reasons"]), default=0.0) or 1.0
    return {
        "rank": rank,
        "id": str(payment["id"]),
        "time": payment["time"],
        "fraud": payment["fraud"],
        "scores": [(name.replace("_", " "), f"{value:.4g}") for name, value in payment["scores"].items()],
        "baseline": formatting.decimal(payment["baseline"], 2),
        "score": formatting.decimal(payment["score"], 2),
        "reasons": [
            {
                "text": reason["text"],
                "value": f"{reason['attribution']:+.2f}",
                "sign": _sign(reason["attribution"]),
                "width": round(100 * abs(reason["attribution"]) / strongest, 1),
            }
            for reason in payment["reasons"]
        ],
        "histories": [
            _history(f"h{rank}-{number}", history, max_attribution)
            for number, history in enumerate(payment["histories"])
        ],
    }


def _history(identifier: str, history: Dict, max_attribution: float) -> dict[str, Any]:
    n, importance = len(history["events"]), history["importance"]
    counted = "" if importance is None else f", counts for {formatting.share(importance, digits=0)}"
    payments = f"{n} earlier payment{'' if n == 1 else 's'}" if n else "no earlier payment"
    caption = f"{payments}{counted}, adds {history['attribution']:+.2f}"
    picture = time_line(identifier, f"{history['name']}: {caption}", history["events"], max_attribution) if n else None
    return {"name": history["name"], "caption": caption, "svg": picture}


def time_line(identifier: str, title: str, events: Sequence[Dict], max_attribution: float) -> Markup:
    """Events with age_seconds, attribution, attention and outcome, oldest first; a dot of size 1 adds ±`max_attribution`."""
    max_age = max(MIN_SPAN, *(event["age_seconds"] for event in events))
    max_attention = max(event["attention"] for event in events) or 1.0
    frauds = sum(event["outcome"] == "fraud" for event in events)
    description = (
        f"{len(events)} earlier payments over {max_age / DAY_SECONDS:.1f} days, {frauds} of them known to be fraud."
    )
    drawn = [_axis(max_age)]
    drawn += [_bar(event, max_age, max_attention) for event in events]
    # the largest first, so that none hides a smaller one
    drawn += [_dot(event, max_age, max_attribution) for event in sorted(events, key=lambda e: -abs(e["attribution"]))]
    drawn += [_mark(event, max_age) for event in events if event["outcome"] == "fraud"]
    return Markup(
        '<svg class="timeline" viewBox="0 0 {} {}" role="img" aria-labelledby="{id}-t {id}-d">'
        '<title id="{id}-t">{}</title><desc id="{id}-d">{}</desc>{}</svg>'
    ).format(WIDTH, HEIGHT, title, description, Markup("").join(drawn), id=identifier)


def _x(age_seconds: float, max_age: float) -> float:
    return WIDTH - RIGHT - (WIDTH - RIGHT - LEFT) * math.log1p(age_seconds / FOLD) / math.log1p(max_age / FOLD)


def _axis(max_age: float) -> Markup:
    now = WIDTH - RIGHT
    rails = Markup('<path class="axis" d="M{} {}H{}M{} {}H{}"/>').format(LEFT, LINE, now, LEFT, FLOOR, now)
    here = Markup('<path class="now" d="M{} 22V{}"/><text class="label" x="{}" y="14" text-anchor="end">now</text>')
    parts = [rails, here.format(now, FLOOR, WIDTH - 4), Markup('<text x="{}" y="82">attention</text>').format(LEFT)]
    line = Markup('<path class="grid" d="M{} 26V{}"/><text x="{}" y="{}" text-anchor="middle">{}</text>')
    last = float(now - 8)
    for age, name in TICKS:
        x = _x(age, max_age)
        if age <= max_age and last - x >= 42 and x >= LEFT + 14:  # names must not overlap
            parts.append(line.format(f"{x:.1f}", FLOOR + 5, f"{x:.1f}", HEIGHT - 8, name))
            last = x
    return Markup("").join(parts)


def _dot(event: Dict, max_age: float, max_attribution: float) -> Markup:
    share = min(1.0, abs(event["attribution"]) / max_attribution)
    radius = MIN_DOT + (MAX_DOT - MIN_DOT) * math.sqrt(share)
    who = "earlier payment" if event["id"] is None else f"payment {event['id']}"
    description = f"{who}, {formatting.moment(event['time'])}: {event['attribution']:+.3f}, {event['outcome']}"
    return Markup('<circle class="event {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        _sign(event["attribution"]), f"{_x(event['age_seconds'], max_age):.1f}", LINE, f"{radius:.1f}", description
    )


def _mark(event: Dict, max_age: float) -> Markup:
    """A triangle that points down at an event."""
    return Markup('<path class="known" d="M{} 31l-5 -9h10z"/>').format(f"{_x(event['age_seconds'], max_age):.1f}")


def _bar(event: Dict, max_age: float, max_attention: float) -> Markup:
    height = BAR * event["attention"] / max_attention
    return Markup('<path class="attention" d="M{} {}v-{}"/>').format(
        f"{_x(event['age_seconds'], max_age):.1f}", FLOOR, f"{height:.1f}"
    )


def _sign(attribution: float) -> str:
    return "pro" if attribution > 0 else "con"
