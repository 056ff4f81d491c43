"""Write monitor.json and monitor.html: whether current payments still resemble those a bundle was trained on.

`monitor` scores a log, builds or loads the reference, compares the two and collects alerts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.config.tables import Monitoring
from tsa.data.log.quarantine import Quarantine, QuarantineLike
from tsa.data.store.prepare import Logs, log_names, prepare
from tsa.data.store.store import EventStore
from tsa.data.time_outliers import valid_end
from tsa.data.time_range import epoch_seconds
from tsa.errors import ConfigError
from tsa.evaluation.report.json_values import to_plain
from tsa.evaluation.report.report import page
from tsa.evaluation.top_k import bundle_k
from tsa.files.outputs import check_outputs
from tsa.files.writing import write_json, write_text
from tsa.inference.scorer import Scorer
from tsa.monitoring.alerts import find_alerts
from tsa.monitoring.drift import compare_features, compare_scores, compare_volume
from tsa.monitoring.expected import MIDDLE, expected
from tsa.monitoring.logged_decisions import RecordedPayments, recorded_payments
from tsa.monitoring.page import plain, view
from tsa.monitoring.performance import performance
from tsa.monitoring.ranges import (
    Span,
    When,
    calibrated_on,
    check_overlap,
    check_reference_span,
    is_reference_file,
    range_of,
)
from tsa.monitoring.reference import Reference
from tsa.monitoring.windows import ScoredWindow, Windows, iso_time
from tsa.progress import Progress, silent


def monitor(
    bundle: str | Path,
    logs: Logs,
    out: Path,
    *,
    reference: Logs = (),
    span: Span | None = None,
    reference_span: Span | None = None,
    as_of: When = None,
    market: Path | None = None,
    overrides: Sequence[str] = (),
    quarantine: QuarantineLike = None,
    replicates: int = 200,
    decisions: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare payments of a log with a reference; write monitor.json, monitor.html and reference.json into `out`.

    Args:
        bundle: The bundle, a folder or a .tar.gz.
        logs: The payments of `span`, and earlier ones for their histories. None with `decisions`.
        out: The folder to write into.
        reference: Another log, or the reference.json of an earlier call. By default the payments of `reference_span` in
            `logs`; without a `reference_span`, the calibration range of the run folder that contains the bundle.
        span: The payments to monitor; by default all of `logs`.
        reference_span: The payments of the reference.
        as_of: Only outcomes known by then count; by default the time of the last payment of the log.
        market: A file with the `[monitoring]` table to use, by default the bundle's market.
        overrides: `key=value` settings for the market.
        quarantine: A file for rows that break a rule; without it they are an error.
        replicates: Bootstrap samples for the intervals.
        decisions: Instead of logs, the log of decisions of a server: the payments that this bundle answered, with the scores
            that it gave and the outcomes reported since.
        progress: Receives the progress of long steps.

    Returns:
        The content of monitor.json; `alerts` is empty if nothing exceeds a threshold.

    Raises:
        ConfigError: For settings or ranges that do not fit, or no reference.
        DataError: For a log that cannot be read.
        BundleError: For a bundle that cannot be read.
    """
    logs, reference = log_names(logs), log_names(reference)
    if bool(logs) == (decisions is not None):
        raise ConfigError(f"give logs, or --decisions FOLDER (got {'both' if logs else 'neither'})")
    _check_outputs([bundle, *logs, *reference, market, decisions], Path(out), Quarantine.of(quarantine))
    scorer = Scorer.load(bundle, overrides)
    settings = _settings(scorer, market, overrides)
    span, reference_span = span or Span(), reference_span or Span()
    check_reference_span(reference_span, reference)
    if span.last_days is None:  # before anything is scored
        check_overlap(span.seconds, reference_span, reference)
    with tempfile.TemporaryDirectory(prefix="tsa-monitor-") as folder:
        encoding = _Encoding(scorer, Path(folder), quarantine, progress)
        recorded = None if decisions is None else recorded_payments(scorer, decisions, Path(folder), progress)
        store = encoding.store("log", logs) if recorded is None else recorded.store
        latest = valid_end(store.time_seconds, time.time()) if recorded is None else time.time()
        known_by = epoch_seconds("as-of", as_of, latest)
        monitored = range_of(store, span, "the log")
        check_overlap(monitored, reference_span, reference)
        measures = _Measures(scorer, settings, known_by, replicates, progress, recorded)
        if path := is_reference_file(reference):
            before = Reference.load(path)
            before.check(scorer.bundle, settings, path)
        else:
            before = measures.reference(
                *_payments_of_reference(Path(bundle), encoding, store, reference, reference_span)
            )
        seen = measures.window(store, monitored, "the payments")
        result = {**_head(scorer, store, settings), **measures.compare(seen, before)}
    result["summary"] = plain(result)
    result = dict(to_plain(result))
    if not (path and (out / "reference.json").exists() and path.samefile(out / "reference.json")):
        write_json(out / "reference.json", to_plain(before.to_dict()))
    write_json(out / "monitor.json", result)
    write_text(out / "monitor.html", page("monitor.html", view(result), "tsa.monitoring"))
    return result


@dataclass(frozen=True)
class _Encoding:
    """Encodes logs with the bundle's encoder into stores below a folder."""

    scorer: Scorer
    folder: Path
    quarantine: QuarantineLike
    progress: Progress

    def store(self, name: str, logs: Logs) -> EventStore:
        """Encode a log. Invalid rows of the reference go into a separate quarantine file."""
        quarantine, bundle = Quarantine.of(self.quarantine), self.scorer.bundle
        if quarantine is not None and name != "log":
            quarantine = quarantine.named(name)
        settings: dict[str, Any] = {"quarantine": quarantine, "encoder": bundle.encoder, "progress": self.progress}
        return prepare(bundle.market, logs, self.folder / name, **settings)


@dataclass(frozen=True)
class _Measures:
    """Scores and counts payments with one bundle and one set of thresholds."""

    scorer: Scorer
    settings: Monitoring
    as_of: float
    replicates: int
    progress: Progress
    recorded: RecordedPayments | None

    def window(self, store: EventStore, seconds: tuple[float, float], what: str) -> ScoredWindow:
        """The scored payments of a range: with the scores that they were answered with, if these are recorded."""
        known = self.recorded.raw if self.recorded is not None and store is self.recorded.store else None
        return ScoredWindow.score(self.scorer, store, seconds, what, self.progress, known=known)

    def reference(self, store: EventStore, seconds: tuple[float, float], source: str) -> Reference:
        """The reference, made from payments of a store."""
        seen = self.window(store, seconds, "the reference")
        settings: dict[str, Any] = {"as_of": self.as_of, "replicates": self.replicates, "progress": self.progress}
        return Reference.of(self.scorer.bundle, seen, source, self.settings, **settings)

    def compare(self, seen: ScoredWindow, reference: Reference) -> dict[str, Any]:
        """All measurements and the alerts."""
        kind, min_frauds = self.settings.window, self.settings.min_frauds
        windows, full_range = Windows.of(seen.start, seen.end, kind), Windows.full_range(seen.start, seen.end)
        measure: dict[str, Any] = {"as_of": self.as_of, "min_frauds": min_frauds, "replicates": self.replicates}
        measure["top_k"] = bundle_k(self.scorer.bundle)
        result: dict[str, Any] = {
            "as_of": iso_time(self.as_of),
            "range": full_range.names()[0],
            "n": len(seen),
            "windows": windows.names(),
            "reference": {"source": reference.source, "as_of": reference.as_of, **reference.facts},
            "features": compare_features(seen, reference, windows),
            "scores": compare_scores(seen, reference, windows),
            "volume": compare_volume(seen, reference.by_weekday, windows),
            "performance": {
                "reference": dict(reference.performance),
                "full_range": performance(seen, full_range, **measure)[0],
                "windows": performance(seen, windows, **measure, progress=self.progress),
            },
        }
        evaluated = (self.scorer.bundle.metrics or {}).get("evaluation", {})
        result["expected"] = expected(
            seen,
            windows,
            threshold=float(evaluated.get("threshold", MIDDLE)),
            as_of=self.as_of,
            min_frauds=min_frauds,
            min_share=self.settings.min_matured_share,
            calibrated_on=_calibrated_on(self.scorer.bundle),
            draws=self.replicates,
            progress=self.progress,
        )
        return {**result, "alerts": find_alerts(result, self.settings)}


def _payments_of_reference(
    bundle: Path, encoding: _Encoding, store: EventStore, reference: Sequence[str], span: Span
) -> tuple[EventStore, tuple[float, float], str]:
    """The store with the reference payments, their range in seconds, and a description of their source."""
    if reference:
        source = ", ".join(Path(name).name for name in reference)
        other = encoding.store("reference", reference)
        return other, range_of(other, span, "the reference"), source
    return calibrated_on(bundle) if span.is_open else (store, span.seconds, "other payments of the log")


def _calibrated_on(bundle: Bundle) -> int | None:
    """The number of frauds that the probabilities were fitted on; None if they were not, or it is not known."""
    calibration = bundle.calibration
    if calibration is None or calibration.probability is None or calibration.probability.method == "sampling":
        return None
    return calibration.counts.get("frauds")


def _settings(scorer: Scorer, market: Path | None, overrides: Sequence[str]) -> Monitoring:
    """The `[monitoring]` table of a market file, or of the bundle's market."""
    own = scorer.bundle.market if market is None else Market.load(market, overrides)
    return own.monitoring or Monitoring()


def _check_outputs(inputs: Sequence[str | Path | None], out: Path, quarantine: Quarantine | None) -> None:
    """Raise ConfigError if an output is an input."""
    files: dict[str, str | Path | None] = {f"{name} in out": out / name for name in ("monitor.json", "monitor.html")}
    if quarantine is not None:
        files |= {"quarantine": quarantine.path, "quarantine of the reference": quarantine.named("reference").path}
    check_outputs(inputs, files=files, into={"out": out})


def _head(scorer: Scorer, store: EventStore, settings: Monitoring) -> dict[str, Any]:
    """The monitored bundle, rows and thresholds."""
    report: Mapping[str, Any] = store.data_report
    rows = {
        key: report[key] for key in ("rows_read", "rows_kept", "rows_excluded", "rows_quarantined") if key in report
    }
    return {
        "market": scorer.bundle.market.name,
        "bundle": scorer.bundle.sha256,
        "rows": rows,
        "top_k": bundle_k(scorer.bundle),
        "calibrated": scorer.bundle.calibration is not None and scorer.bundle.calibration.probability is not None,
        "settings": settings.model_dump(mode="json"),
    }
