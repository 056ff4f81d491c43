"""Compare two bundles: their settings and weights, and how their scores of the same payments differ."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from scipy.stats import spearmanr

from tsa.bundle.bundle import Bundle
from tsa.bundle.manifest import sha256, to_json
from tsa.data.store.store import EventStore
from tsa.evaluation.compare_bundles import compare_scored, labelled
from tsa.evaluation.metrics.psi import psi
from tsa.inference.scorer import Files, Scorer
from tsa.progress import Progress, silent
from tsa.value_differences import differences

TOPS = {"100": 100, "0.1 %": 0.001, "1 %": 0.01}
MOVED = 10
"""Number of payments with the largest change that are listed."""


def diff_bundles(one: Bundle, other: Bundle, log: Files | None = None, progress: Progress = silent) -> dict[str, Any]:
    """The differences of two bundles.

    Returns:
        `schema`, `vocabulary`, `scaling`, `model`, `training`, `weights`, `parts`, `calibration`, `thresholds`, `metrics` (of
        bundles evaluated on the same range) and, with a log, `scores`; with one that has outcomes, `outcomes`, as
        `compare_bundles` returns them. Nested settings are listed as lines, `key: one, other`.
    """
    differences_by_part: dict[str, Any] = {
        "schema": list(differences(one.market.to_dict(), other.market.to_dict())),
        "vocabulary": _vocabulary(one, other),
        "scaling": list(differences(_scalers(one), _scalers(other))),
        "model": list(differences(one.config.to_dict(), other.config.to_dict())),
        "training": list(differences(one.training.get("training", {}), other.training.get("training", {}))),
        "weights": _weights(one, other),
        "parts": _parts(one, other),
        "calibration": _calibration(one, other),
        "thresholds": list(differences(_thresholds(one), _thresholds(other))),
        "metrics": _metrics(one, other),
    }
    if log is None:
        return differences_by_part
    frames = _scores(one, other, log, progress)
    moved = {"scores": score_movement(*(frame.scores for frame in frames))}
    if all(len(frame.known) for frame in frames) and one.market.name == other.market.name:
        known = dict(zip("ab", (frame.known for frame in frames), strict=True))
        moved["outcomes"] = compare_scored({"a": one, "b": other}, known)
    return {**differences_by_part, **moved}


@dataclass(frozen=True)
class ScoredLog:
    """The payments of a log with the scores of one bundle."""

    scores: pl.DataFrame
    """All of them, as `Scorer.score` returns them."""
    known: pl.DataFrame
    """Those with a known outcome, as `labelled` returns them."""

    @classmethod
    def of(cls, scorer: Scorer, store: EventStore, progress: Progress) -> Self:
        """Score the payments of a store."""
        scores = scorer.score_store(store, progress=progress)
        rows = store.scored_rows(0, len(store))
        return cls(scores, labelled(scorer, store, rows, scores["raw_score"].to_numpy()))


def _scores(one: Bundle, other: Bundle, log: Files, progress: Progress) -> tuple[ScoredLog, ScoredLog]:
    """The scores of a log by both bundles. The log is read and encoded once if both bundles do it the same way."""
    scorers = Scorer(one), Scorer(other)
    same = one.encoder.to_dict() == other.encoder.to_dict()
    with scorers[0].encoded(log, progress=progress) as store, tempfile.TemporaryDirectory(prefix="tsa-diff-") as folder:
        first = ScoredLog.of(scorers[0], store, progress)
        if not _have_same_inputs(one, other) or not (same or one.market.wire is None):
            with scorers[1].encoded(log, progress=progress) as second:
                return first, ScoredLog.of(scorers[1], second, progress)
        if not same:
            store = store.encoded_by(other.market, other.encoder, Path(folder), progress)
        return first, ScoredLog.of(scorers[1], store, progress)


def _have_same_inputs(one: Bundle, other: Bundle) -> bool:
    """Whether both bundles use the same rows of a log, in the same order, with the same histories. Name, ranges and
    monitoring settings do not matter."""
    parts = [
        {
            key: value
            for key, value in bundle.market.canonical_dict.items()
            if key not in ("name", "split", "monitoring")
        }
        for bundle in (one, other)
    ]
    return parts[0] == parts[1] and one.encoder.domains == other.encoder.domains


def _vocabulary(one: Bundle, other: Bundle) -> dict[str, Any]:
    """Values added and removed, per feature that both have."""
    values = [{v.name: v.values for v in bundle.encoder.categorical_vocabularies} for bundle in (one, other)]
    changes = {}
    for name in values[0].keys() & values[1].keys():
        added = sorted(set(values[1][name]) - set(values[0][name]))
        removed = sorted(set(values[0][name]) - set(values[1][name]))
        if added or removed:
            changes[name] = {"added": added, "removed": removed, "unchanged": len(values[0][name]) - len(removed)}
    return dict(sorted(changes.items()))


def _scalers(bundle: Bundle) -> dict[str, Any]:
    groups = (bundle.encoder.numerical_scaling, bundle.encoder.engineered_scaling)
    return {scaler.name: scaler.to_dict() for scaling in groups for scaler in scaling.scalers}


def _weights(one: Bundle, other: Bundle) -> dict[str, Any]:
    """Relative difference per tensor that both have; and the tensors that only one has."""
    first, second = one.network.state_dict(), other.network.state_dict()
    changed, missing = {}, sorted(first.keys() ^ second.keys())
    for name in first.keys() & second.keys():
        if first[name].shape != second[name].shape:
            missing.append(name)
        elif (distance := _distance(first[name], second[name])) > 0:
            changed[name] = distance
    tensors = dict(sorted(changed.items(), key=lambda pair: -pair[1]))
    return {"equal": not changed and not missing, "changed": len(changed), "relative": tensors, "of_one_alone": missing}


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.double(), other.double()
    return float((one - other).norm() / one.norm().clamp(min=1e-12))


def _parts(one: Bundle, other: Bundle) -> list[str]:
    """The differences of trees, of the columns that they read, and of how they are joined with the network."""
    return list(differences(_parts_of(one), _parts_of(other)))


def _parts_of(bundle: Bundle) -> dict[str, Any]:
    joining, trees = bundle.joining.to_dict(), bundle.trees
    if trees is None:
        return {"joining": joining, "trees": {"number": 0, "columns": 0, "history_length": 0, "sha256": None}}
    columns = trees.columns
    counts = {"number": trees.trees.n_trees, "columns": len(columns.names)}
    reach = {"history_length": columns.aggregates.history_length}
    content = sha256(trees.trees.text.encode() + to_json(trees.to_dict()))
    return {"joining": joining, "trees": {**counts, **reach, "sha256": content}}


def _calibration(one: Bundle, other: Bundle) -> dict[str, Any]:
    """Whether the maps to percentile and probability are equal, and the scores that each gives for some raw scores."""
    maps = [None if bundle.calibration is None else bundle.calibration.to_dict() for bundle in (one, other)]
    raw = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99])
    values = {}
    for name, bundle in (("one", one), ("other", other)):
        columns = {} if bundle.calibration is None else bundle.calibration.columns(raw)
        values[name] = {column: values_of_column.tolist() for column, values_of_column in columns.items()}
    return {"equal": maps[0] == maps[1], "raw_score": raw.tolist(), "methods": [*map(_method, (one, other))], **values}


def _method(bundle: Bundle) -> str | None:
    """How the bundle's probability was fitted; None if it has none."""
    probability = None if bundle.calibration is None else bundle.calibration.probability
    return None if probability is None else probability.method


def _thresholds(bundle: Bundle) -> Any:
    return {} if bundle.thresholds is None else bundle.thresholds.to_dict()


def _metrics(one: Bundle, other: Bundle) -> dict[str, Any]:
    """The two values of each metric that both have; none if they were evaluated on different ranges."""
    ranges = [(bundle.data or {}).get("splits", {}).get("test") for bundle in (one, other)]
    if ranges[0] != ranges[1]:
        return {}
    tables = [{} if b.metrics is None else b.metrics["evaluation"]["metrics"] for b in (one, other)]
    shared = [name for name in tables[0] if name in tables[1]]
    return {name: {"one": tables[0][name]["value"], "other": tables[1][name]["value"]} for name in shared}


def score_movement(one: pl.DataFrame, other: pl.DataFrame) -> dict[str, Any]:
    """How the raw scores of the same payments differ: rank correlation, overlap of the riskiest, PSI, largest changes."""
    both = one.select("id", "raw_score").join(other.select("id", "raw_score"), on="id", suffix="_other")
    first, second = (both[name].to_numpy().astype(np.float64) for name in ("raw_score", "raw_score_other"))
    n = len(both)
    correlation = spearmanr(first, second).statistic if n > 1 else float("nan")
    largest = np.argsort(-np.abs(first - second), kind="stable")[:MOVED]
    return {
        "n": n,
        "rank_correlation": None if np.isnan(correlation) else float(correlation),
        "top_overlap": {name: _overlap(first, second, top) for name, top in TOPS.items()},
        "psi": psi(first, second),
        "largest": float(np.abs(first - second).max(initial=0.0)),
        "moved_most": [
            {"id": both["id"][int(at)], "one": float(first[at]), "other": float(second[at])} for at in largest
        ],
    }


def _overlap(one: Any, other: Any, top: float) -> float:
    """The share of the riskiest `top` payments (a number, or a share of all) that both bundles agree on."""
    k = min(len(one), max(1, int(top) if top >= 1 else round(top * len(one))))
    if k == 0:
        return 1.0
    tops = [set(np.argsort(-scores, kind="stable")[:k].tolist()) for scores in (one, other)]
    return len(tops[0] & tops[1]) / k


def diff_paths(one: Path, other: Path, log: Files | None = None, progress: Progress = silent) -> dict[str, Any]:
    """The differences between the bundles at two paths."""
    return diff_bundles(Bundle.open(one), Bundle.open(other), log, progress)
