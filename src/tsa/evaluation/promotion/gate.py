"""The gate: each rule of `[promotion]` with its value, its limit, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tsa.config.promotion import Promotion
from tsa.evaluation.metrics.calibration import measure_calibration
from tsa.evaluation.metrics.evaluate_scores import evaluate_scores
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.metrics.psi import psi
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.evaluation.metrics.segments import by_value
from tsa.evaluation.promotion.pair import Pair, Scored
from tsa.evaluation.report.json_values import to_plain
from tsa.times import iso

Rule = dict[str, Any]
SEED = 0


def apply_gate(pair: Pair, rules: Promotion, *, replicates: int = 200) -> dict[str, Any]:
    """Measure a candidate and the champion on the same payments, and apply the rules.

    Args:
        pair: The scores of both.
        rules: `[promotion]` of the market.
        replicates: Bootstrap samples for the intervals.

    Returns:
        Plain JSON values: `passed`, `rules` (name, text, value, limit, passed, note), `payments`, `frauds`, `start`, `end`,
        `candidate` and `champion` (sha256, metrics, calibration, latency_ms), `metrics` (paired, candidate - champion),
        `segments`, `psi`, `changed_decisions`.
    """
    names = pair.run.market.evaluation.segments if rules.segments is None else rules.segments
    payments = pair.run.payments(pair.candidate.raw, names)
    measured = _compared(pair, payments, rules, names, replicates)
    own = _side(pair, pair.candidate, payments, replicates)
    other = None if pair.champion is None else _side(pair, pair.champion, payments, replicates)
    applied = list(_rules(rules, measured, own, other, frauds=int(payments.label.sum())))
    times = payments.time_seconds
    result = {
        "passed": all(rule["passed"] for rule in applied),
        "rules": applied,
        "payments": len(payments),
        "frauds": int(payments.label.sum()),
        "start": iso(times.min(), "seconds"),
        "end": iso(times.max(), "seconds"),
        "candidate": own,
        "champion": other,
        **measured,
    }
    made: dict[str, Any] = to_plain(result)
    return made


def _side(pair: Pair, one: Scored, payments: ScoredPayments, replicates: int) -> dict[str, Any]:
    bundle = one.scorer.bundle
    threshold = 0.5 if bundle.metrics is None else float(bundle.metrics["evaluation"]["threshold"])
    measured = evaluate_scores(
        replace(payments, score=one.raw, segments={}), threshold=threshold, top_k=pair.run.top_k, replicates=replicates
    )
    calibration = None
    if one.probability is not None:
        generator = np.random.default_rng(SEED)
        calibration = measure_calibration(payments.label, one.probability, generator=generator, replicates=0)["metrics"]
    return {
        "sha256": bundle.sha256,
        "metrics": measured["metrics"],
        "top_k": pair.run.top_k,
        "threshold": threshold,
        "calibration": calibration,
        "latency_ms": one.latency_ms,
    }


def _compared(
    pair: Pair, payments: ScoredPayments, rules: Promotion, names: tuple[str, ...], replicates: int
) -> dict[str, Any]:
    """What needs both models."""
    if pair.champion is None:
        return {"metrics": None, "segments": [], "psi": None, "changed_decisions": None}
    a, b = pair.candidate.raw, pair.champion.raw
    segments = [
        {"column": name, **part}
        for name in names
        for part in by_value(payments.segments[name], lambda rows: _segment(a, b, payments, rows, rules, replicates))
    ]
    decisions = pair.candidate.decisions, pair.champion.decisions
    changed = None if decisions[0] is None or decisions[1] is None else float((decisions[0] != decisions[1]).mean())
    return {
        "metrics": paired_difference(a, b, payments, replicates=replicates, seed=SEED),
        "segments": segments,
        "psi": psi(b, a),
        "changed_decisions": changed,
    }


def _segment(a: Any, b: Any, payments: ScoredPayments, rows: Any, rules: Promotion, replicates: int) -> dict[str, Any]:
    label = payments.label[rows]
    part: dict[str, Any] = {"n": len(rows), "frauds": int(label.sum())}
    if part["frauds"] < rules.min_segment_frauds:
        return part
    own = ScoredPayments(label=label, score=a[rows], time_seconds=payments.time_seconds[rows])
    return part | paired_difference(a[rows], b[rows], own, replicates=replicates, seed=SEED)[rules.metric]


def _rules(
    rules: Promotion,
    measured: Mapping[str, Any],
    own: Mapping[str, Any],
    other: Mapping[str, Any] | None,
    *,
    frauds: int,
) -> Iterator[Rule]:
    yield _at_least("known frauds", "frauds", frauds, rules.min_frauds)
    name = rules.metric.replace("_", " ").replace("roc auc", "ROC AUC")
    if measured["metrics"] is not None:
        paired = measured["metrics"][rules.metric]
        reason = paired.get("reason")
        text = f"difference of {name}, candidate - champion"
        yield _at_least(text, "difference", paired["difference"], rules.min_difference, reason)
        if rules.min_difference_low is not None:
            yield _at_least(
                "lower end of its 95 % interval", "difference_low", paired["low"], rules.min_difference_low, reason
            )
    if rules.max_calibration_error is not None:
        ece = None if own["calibration"] is None else own["calibration"]["ece"]["value"]
        note = "the candidate has no probabilities" if own["calibration"] is None else None
        yield _at_most("expected calibration error", "calibration_error", ece, rules.max_calibration_error, note)
    yield from _segment_rules(rules, measured["segments"], name)
    if rules.max_latency_ms is not None:
        text = "milliseconds for one payment, 95 % of them"
        yield _at_most(text, "latency_ms", own["latency_ms"], rules.max_latency_ms)
    if other is None:
        return
    if rules.max_latency_ratio is not None:
        ratio = own["latency_ms"] / other["latency_ms"]
        yield _at_most("the same as a multiple of the champion's", "latency_ratio", ratio, rules.max_latency_ratio)
    if rules.max_score_psi is not None:
        yield _at_most("PSI of the raw scores", "score_psi", measured["psi"], rules.max_score_psi)
    if rules.max_changed_decisions is not None:
        note = "one of the bundles has no decisions" if measured["changed_decisions"] is None else None
        text, share = "share of payments with another decision", measured["changed_decisions"]
        yield _at_most(text, "changed_decisions", share, rules.max_changed_decisions, note)


def _segment_rules(rules: Promotion, segments: list[dict[str, Any]], name: str) -> Iterator[Rule]:
    if rules.max_segment_drop is None:
        return
    for part in segments:
        if "difference" in part:
            text = f"difference of {name} where {part['column']} is {part['value']}"
            reason = part.get("reason")
            yield _at_least(text, f"segment:{part['column']}", part["difference"], -rules.max_segment_drop, reason)


def _at_least(text: str, name: str, value: float | None, limit: float, note: str | None = None) -> Rule:
    passed = value is not None and value >= limit
    return {"name": name, "text": text, "value": value, "at_least": limit, "passed": passed, "note": note}


def _at_most(text: str, name: str, value: float | None, limit: float, note: str | None = None) -> Rule:
    passed = value is not None and value <= limit
    return {"name": name, "text": text, "value": value, "at_most": limit, "passed": passed, "note": note}


def gate_sentence(gate: Mapping[str, Any]) -> str:
    """Whether the candidate passes the gate, and which rules it breaks, in one sentence."""
    failed = [rule for rule in gate["rules"] if not rule["passed"]]
    if not failed:
        counts = f"{gate['payments']:,} payments, {gate['frauds']:,} frauds"
        return f"The candidate passes the gate: all {len(gate['rules'])} rules on {counts}."
    return f"The candidate does not pass the gate: {'; '.join(map(rule_text, failed))}."


def rule_text(rule: Mapping[str, Any]) -> str:
    """A rule with its value and limit."""
    value = "not known" if rule["value"] is None else f"{rule['value']:.4g}"
    limit = f"at least {rule['at_least']:g}" if "at_least" in rule else f"at most {rule['at_most']:g}"
    note = f" ({rule['note']})" if rule["note"] else ""
    return f"{rule['text']} is {value}, must be {limit}{note}"
