"""Shadow scoring: a second bundle scores the same payments in the background; differences are counted and written to a file.

The file has scores, versions, times and ids (pseudonyms where the market says so), but no values. If the shadow is too slow,
payments are skipped and counted; it never delays or changes an answer.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import orjson

from tsa.data.values import RuleViolation
from tsa.errors import HistoryUnavailable, TSAError
from tsa.files.writing import open_stream
from tsa.inference.scorer import Scorer
from tsa.serving.errors import safe_traceback
from tsa.serving.history.base import HistoryStore
from tsa.serving.history.metadata import check_store
from tsa.serving.metrics import Metrics
from tsa.serving.request_limits import PaymentRequest
from tsa.serving.results import ScoreResult
from tsa.serving.scoring.bundle_watch import version_of
from tsa.serving.scoring.pipeline import ScoringPipeline
from tsa.serving.scoring.preview import load_scoring_input
from tsa.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Largest number of payments that wait for the shadow."""


class Shadow:
    """Scores payments with the shadow bundle in a separate thread."""

    def __init__(self, settings: ServeSettings, store: HistoryStore | None, metrics: Metrics) -> None:
        """Open the bundle and the file; raises what opening these raises."""
        self._pipeline, self._store = _opened_pipeline(settings), store
        self._fitted: int | None = None
        """The store's `turns` when it was last checked."""
        with contextlib.suppress(HistoryUnavailable):  # then it is checked before the first payment
            self._check_store()
        self._metrics, self._min_difference = metrics, settings.shadow_difference
        self._path, self._file = settings.shadow_file, _opened(settings.shadow_file)
        self._writing, self._scoring = threading.Lock(), threading.Lock()
        self._work: queue.Queue[tuple[PaymentRequest, ScoreResult] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="tsa-shadow", daemon=True)
        self._thread.start()

    def submit(self, entries: Sequence[PaymentRequest], results: Sequence[ScoreResult | RuleViolation]) -> None:
        """Queue scored payments for the shadow. Never waits."""
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, ScoreResult) and not result.replayed and not result.degraded:
                try:
                    self._work.put_nowait((entry, result))
                except queue.Full:
                    self._metrics.shadow_lost.inc()

    @property
    def version(self) -> str:
        """The version of the bundle that scores."""
        return self._pipeline.version

    def replace(self, settings: ServeSettings) -> None:
        """Score with the bundle that is now at the path; raises what opening it raises, and the old one stays in use."""
        opened = _opened_pipeline(settings)
        with self._scoring:
            self._pipeline, self._fitted = opened, None

    def reopen(self) -> None:
        """Reopen the file at its path, after a log rotation. Raises OSError; the old file then stays in use."""
        opened = _opened(self._path)
        with self._writing:
            before, self._file = self._file, opened
            if before is not None:
                before.close()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                with self._scoring:
                    self._compare(*work)
            except Exception as error:
                self._metrics.shadow_lost.inc()
                if not isinstance(error, TSAError):
                    logger.error("the shadow failed: %s", safe_traceback(error))

    def _compare(self, entry: PaymentRequest, answer: ScoreResult) -> None:
        if answer.raw_score is None:
            return
        self._check_store()
        seen = load_scoring_input(self._pipeline, self._store, entry.row, entry.histories)
        if isinstance(seen, RuleViolation):
            self._metrics.shadow_lost.inc()
            return
        scores = self._pipeline.scorer.score_requests(seen.requests)
        difference = float(scores["raw_score"][0]) - answer.raw_score
        self._metrics.shadow.observe(abs(difference))
        if self._file is not None and abs(difference) >= self._min_difference:
            served = {"version": answer.version, "raw_score": answer.raw_score, "percentile": answer.percentile}
            shadow = {"version": self._pipeline.version, **{name: float(values[0]) for name, values in scores.items()}}
            line = {
                "at": round(time.time(), 3),
                "id": seen.payment.id,
                "difference": difference,
                "ours": served,
                "shadow": shadow,
            }
            with self._writing:
                self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _check_store(self) -> None:
        """Raise HistoryError if the store, which the served bundle fills, holds less than the shadow reads."""
        if self._store is None or self._store.turns == self._fitted or self._pipeline.market.wire is not None:
            return
        turns, bundle = self._store.turns, self._pipeline.scorer.bundle
        check_store(self._store, bundle.market, bundle.encoder, bundle.visible_lengths)
        self._fitted = turns

    def close(self, within: float = 5.0) -> None:
        """Finish the queued payments, within this many seconds."""
        end = time.monotonic() + within
        try:
            self._work.put(None, timeout=within)
        except queue.Full:
            return
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._file is not None and not self._thread.is_alive():
            self._file.close()


def _opened_pipeline(settings: ServeSettings) -> ScoringPipeline:
    assert settings.shadow is not None
    scorer = Scorer.load(
        settings.shadow.resolve(), settings.overrides, key=settings.read_key(), threads=settings.threads
    )
    return ScoringPipeline(scorer, version_of(scorer), time.time)


def _opened(path: Path | None) -> IO[bytes] | None:
    if path is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_stream(path, "ab")
