"""Records what a server answers, and the outcomes it hears of, in its log of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tsa.data.values import RuleViolation
from tsa.inference.scorer import Scorer
from tsa.serving.decisions.background_writer import DecisionLog
from tsa.serving.decisions.entries import decision_entry, outcome_entry, reasons_entry, threshold_set
from tsa.serving.decisions.kafka import KafkaLog
from tsa.serving.metrics import Metrics
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.bundle_watch import version_of
from tsa.serving.settings import ServeSettings

Result = ScoreResult | RuleViolation


class DecisionRecorder:
    """The log of decisions of one server process."""

    def __init__(self, settings: ServeSettings, metrics: Metrics, scorer: Scorer) -> None:
        """Open the log. Raises OSError if its folder cannot be written to, ConfigError for a wrong Kafka address."""
        assert settings.decision_log is not None
        self._threshold_sets: dict[str, str | None] = {}
        self.set_bundle(scorer)
        logged, lost = metrics.decisions_logged.inc, metrics.decisions_lost.inc
        folder = settings.decision_folder
        if folder is None:
            self._log: DecisionLog | KafkaLog = KafkaLog(
                settings.decision_log, sync=settings.decision_log_sync, logged=logged, lost=lost
            )
            return
        self._log = DecisionLog(
            folder,
            sync=settings.decision_log_sync,
            flush_seconds=settings.decision_flush,
            rotate_seconds=settings.decision_rotate,
            retention_seconds=self._market.retention_seconds,
            logged=logged,
            lost=lost,
        )

    def set_bundle(self, scorer: Scorer) -> None:
        """Note a bundle that answers from now on."""
        self._market = scorer.bundle.market
        self.add_thresholds(scorer)

    def add_thresholds(self, scorer: Scorer) -> None:
        """Note the thresholds of another bundle that answers."""
        self._threshold_sets[version_of(scorer)] = threshold_set(scorer.bundle)

    def record(self, results: Sequence[Result]) -> list[Result]:
        """Record the answers of a batch.

        Returns:
            The same answers; with `decision_log_sync` a violation in place of each that could not be written.
        """
        answers = [result for result in results if isinstance(result, ScoreResult) and result.details is not None]
        market, sets = self._market.name, self._threshold_sets
        try:
            self._log.record([decision_entry(answer, market, sets.get(answer.version)) for answer in answers])
        except OSError:
            text = "must be written before a payment is answered; try again"
            lost = RuleViolation("decision_log", "decision log", text, "it cannot be written")
            return [lost if isinstance(result, ScoreResult) else result for result in results]
        return list(results)

    def outcome(self, id_: str, fraud: bool, known_at: float, by: str | None) -> None:
        """Record an outcome. id_: as recorded. by: who says so."""
        with suppress(OSError):  # the log has counted and reported it; histories have the outcome
            self._log.record([outcome_entry(id_, fraud, known_at, by)])

    def reasons(self, results: Sequence[Result], reasons: Sequence[Sequence[Any] | None]) -> None:
        """Record the reasons given with answers; None where there are none."""
        entries = [
            reasons_entry(result.details, result.version, why)
            for result, why in zip(results, reasons, strict=True)
            if isinstance(result, ScoreResult) and result.details is not None and why is not None
        ]
        self._log.record_soon(entries)

    def close(self, within: float = 5.0) -> None:
        """Write what waits, within this many seconds."""
        self._log.close(within)
