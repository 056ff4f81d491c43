"""What another bundle would have said: recorded payments scored again, each with the history that it had then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import polars as pl

from tsa.config.market import Market
from tsa.data.clean_columns import HISTORY_ONLY
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.data.store.prepare import Logs, encoded_log, prepare
from tsa.data.wire.layout import FieldLayout
from tsa.data.wire.quarantine import secret_fields
from tsa.errors import ConfigError
from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.metrics.psi import psi
from tsa.evaluation.metrics.scored_payments import ScoredPayments
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.serving.decisions.as_payment_log import check_market, recorded_log
from tsa.serving.decisions.read_decisions import answered

PLACE = "__place"


def replay(
    folder: Path,
    scorer: Scorer,
    *,
    logs: Logs = (),
    since: float | None = None,
    until: float | None = None,
    replicates: int = 200,
    progress: Progress = silent,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Score the payments of a log of decisions with a bundle, and compare the answers.

    Histories consist of the recorded payments and those of `logs`, with the outcomes that were known by then.

    Args:
        folder: The folder of the log of decisions.
        scorer: The other bundle.
        logs: Logs with earlier payments, such as those that the history store was loaded with.
        since, until: Compare only answers of [since, until), in epoch seconds; histories use all.
        replicates: Bootstrap samples for intervals.
        progress: Receives the progress of long steps.

    Returns:
        By payment: what was answered, and the other bundle's `other_raw_score`, `other_percentile`, `other_probability`,
        `other_decision`; and a comparison: counts, `left_out`, `psi`, `decisions`, `metrics`.

    Raises:
        ConfigError: The log is of another market, lacks a column that the bundle reads, or fields that were left out for
            privacy.
        DataError: A file cannot be read.
    """
    answers = answered(folder, until=until)
    check_market(scorer.bundle.market, answers)
    if scorer.bundle.market.wire is not None:
        scored, left_out = _wire_scores(scorer, answers), dict[str, int]()
    else:
        scored, left_out = _log_scores(scorer, answers, logs, progress)
    compared = answers.drop("values", "histories").join(scored, on="id", how="inner", maintain_order="left")
    compared = compared.filter(pl.col("raw_score").is_not_null())
    if since is not None:
        compared = compared.filter(pl.col("at").dt.epoch("us") >= int(since * 1e6))
    if not len(compared):
        raise ConfigError("the log of decisions must have payments in this range that can be scored again (got none)")
    return compared, {"left_out": left_out, **_comparison(compared, replicates)}


def _log_scores(
    scorer: Scorer, answers: pl.DataFrame, logs: Logs, progress: Progress
) -> tuple[pl.DataFrame, dict[str, int]]:
    bundle = scorer.bundle
    with TemporaryDirectory(prefix="tsa-replay-") as place:
        earlier = (
            prepare(bundle.market, logs, Path(place) / "store", encoder=bundle.encoder, progress=progress)
            if logs
            else None
        )
        log = recorded_log(bundle, answers, earlier)
        with encoded_log(log.bundle.market, log.table, bundle.encoder, progress=progress) as store:
            ids = store.ids().cast(pl.String)
            wanted = (
                ids.is_in(answers["id"].implode()) if earlier is not None else pl.repeat(True, len(ids), eager=True)
            )
            rows = store.scored_rows()
            rows = rows[wanted.to_numpy()[rows]]
            with progress("scoring", len(rows)) as advance:
                raw = Scorer(log.bundle).score_rows(store, rows, advance=advance)
            return _columns(scorer, ids.gather(rows), raw), log.left_out


def _wire_scores(scorer: Scorer, answers: pl.DataFrame) -> pl.DataFrame:
    market = scorer.bundle.market
    _check_readable(market)
    named = answers.filter(pl.col("id").is_not_null() & (pl.col("role") != HISTORY_ONLY))
    rows = [orjson.loads(values) for values in named["values"].to_list()]
    raw = scorer.score(rows)["raw_score"].to_numpy()
    return _columns(scorer, named["id"], raw)


def _check_readable(market: Market) -> None:
    hidden = Pseudonymizer.of(market)
    if hidden is not None and (secret := secret_fields(FieldLayout(market), hidden)):
        rule = "rows can only be scored again if the log has all of their fields"
        raise ConfigError(f"{rule} (got a market that pseudonymises {len(secret)} fields of histories)")


def _columns(scorer: Scorer, ids: pl.Series, raw: Any) -> pl.DataFrame:
    scores, policy = scorer.with_calibration(np.asarray(raw, np.float32)), scorer.bundle.thresholds
    decisions = [None] * len(ids) if policy is None else policy.decide(scores)
    numbers = {f"other_{name}": np.asarray(values, np.float64) for name, values in scores.items()}
    return pl.DataFrame({"id": ids, **numbers, "other_decision": pl.Series(decisions, dtype=pl.String)})


def _comparison(compared: pl.DataFrame, replicates: int) -> dict[str, Any]:
    known = compared.filter(pl.col("fraud").is_not_null())
    scores = {name: known[name].to_numpy() for name in ("raw_score", "other_raw_score")}
    metrics = None
    if known["fraud"].n_unique() == 2:
        payments = ScoredPayments(
            label=known["fraud"].cast(pl.Int8).to_numpy(),
            score=scores["raw_score"],
            time_seconds=known["time"].dt.epoch("us").to_numpy() / 1e6,
        )
        metrics = paired_difference(scores["raw_score"], scores["other_raw_score"], payments, replicates=replicates)
    difference = (compared["other_raw_score"] - compared["raw_score"]).abs()
    return {
        "payments": len(compared),
        "outcomes": len(known),
        "frauds": int(known["fraud"].sum()),
        "largest_difference": difference.max(),
        "mean_difference": difference.mean(),
        "psi": psi(compared["raw_score"].to_numpy(), compared["other_raw_score"].to_numpy()),
        "decisions": decision_counts(compared),
        "metrics": metrics,
    }


def decision_counts(compared: pl.DataFrame) -> list[dict[str, Any]]:
    """How many payments, and known frauds, got each pair of decisions."""
    grouped = compared.group_by("decision", "other_decision").agg(
        payments=pl.len(), frauds=pl.col("fraud").fill_null(False).sum()
    )
    return grouped.sort("decision", "other_decision", nulls_last=True).to_dicts()


def sentence(name: str, values: Mapping[str, Any], words: Sequence[str] = ("logged", "other")) -> str:
    """One line on a metric of both."""
    if values["difference"] is None:
        return f"{name}: undefined ({values.get('reason')})"
    shown = f"{name}: {words[0]} {values['a']:.3f}, {words[1]} {values['b']:.3f}"
    if values["low"] is None:
        return f"{shown} (no interval: {values['reason']})"
    clear = "no clear difference" if values["verdict"] == "no clear difference" else "a clear difference"
    return f"{shown}, difference {values['difference']:+.3f} [{values['low']:+.3f}, {values['high']:+.3f}]: {clear}"
