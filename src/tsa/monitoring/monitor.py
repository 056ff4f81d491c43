"""monitor.json and monitor.html: whether the payments of a log are still those that a bundle was made for.

It knows where the reference comes from and in what order things are done; each figure is another room's.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tsa.config.market import Market
from tsa.config.tables import Monitoring
from tsa.data.log.clocks import sound_end
from tsa.data.log.quarantine import Quarantine, SetAside
from tsa.data.store.store import EventStore, prepare
from tsa.errors import ConfigError, StoreError, TSAError
from tsa.evaluation.report.report import page, to_plain
from tsa.evaluation.run import TrainedRun
from tsa.files.writing import write_json, write_text
from tsa.inference.scorer import Scorer, epoch_seconds, window_seconds
from tsa.monitoring.alerts import find_alerts
from tsa.monitoring.drift import compare_features, compare_scores, compare_volume
from tsa.monitoring.page import plain, view
from tsa.monitoring.performance import performance
from tsa.monitoring.reference import KIND, Reference
from tsa.monitoring.windows import ScoredWindow, Windows, iso_time
from tsa.progress import Progress, silent

Logs = Sequence[str | Path]
When = str | datetime | None
PEEK = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A range of time [start, end); None: open."""

    start: When = None
    end: When = None

    @property
    def seconds(self) -> tuple[float, float]:
        """As epoch seconds. ConfigError."""
        return window_seconds(self.start, self.end)

    @property
    def is_open(self) -> bool:
        """Whether it says nothing."""
        return self.start is None and self.end is None


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
    quarantine: SetAside = None,
    replicates: int = 200,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare payments of a log with a reference; write monitor.json, monitor.html and reference.json into `out`.

    logs: the payments of `span`, and earlier ones for their histories. reference: another log, or the reference.json of an
    earlier call; without it the payments of `reference_span` in `logs`, or, where that is not given either, the calibration
    range of the run that the bundle stands in. as_of: outcomes known until then count, by default until the last payment of
    the log. market: a file whose `[monitoring]` table to use, by default the bundle's.
    Returns what monitor.json holds; its `alerts` are empty where all is well. ConfigError, DataError, BundleError.
    """
    scorer = Scorer.load(bundle, overrides)
    settings = _settings(scorer, market, overrides)
    span, reference_span = span or Span(), reference_span or Span()
    _check_spans(span, reference_span, reference)
    with tempfile.TemporaryDirectory(prefix="tsa-monitor-") as folder:
        encoding = _Encoding(scorer, Path(folder), quarantine, progress)
        store = encoding.store("log", logs)
        known_by = epoch_seconds("as-of", as_of, sound_end(store.time_seconds, time.time()))
        measures = _Measures(scorer, settings, known_by, replicates, progress)
        if path := _is_reference_file(reference):
            before = Reference.load(path)
            before.check(scorer.bundle, settings, path)
        else:
            before = measures.reference(
                *_payments_of_reference(Path(bundle), encoding, store, reference, reference_span)
            )
        seen = ScoredWindow.score(scorer, store, _sound(store, span.seconds, "the log"), "the payments", progress)
        found = {**_head(scorer, store, settings), **measures.compare(seen, before)}
    found["summary"] = plain(found)
    found = dict(to_plain(found))
    if not (path and (out / "reference.json").exists() and path.samefile(out / "reference.json")):
        write_json(out / "reference.json", to_plain(before.to_dict()))
    write_json(out / "monitor.json", found)
    write_text(out / "monitor.html", page("monitor.html", view(found), "tsa.monitoring"))
    return found


@dataclass(frozen=True)
class _Encoding:
    """Makes stores of logs with the bundle's encoder, under a folder."""

    scorer: Scorer
    folder: Path
    quarantine: SetAside
    progress: Progress

    def store(self, name: str, logs: Logs) -> EventStore:
        """Bad rows of the reference go into a file of their own."""
        aside, bundle = Quarantine.of(self.quarantine), self.scorer.bundle
        if aside is not None and name != "log":
            aside = aside.named(name)
        settings: dict[str, Any] = {"quarantine": aside, "encoder": bundle.encoder, "progress": self.progress}
        return prepare(bundle.market, logs, self.folder / name, **settings)


@dataclass(frozen=True)
class _Measures:
    """Scores and counts payments by one bundle, with one set of thresholds."""

    scorer: Scorer
    settings: Monitoring
    as_of: float
    replicates: int
    progress: Progress

    def reference(self, store: EventStore, seconds: tuple[float, float], source: str) -> Reference:
        """What payments are compared with."""
        seen = ScoredWindow.score(self.scorer, store, seconds, "the reference", self.progress)
        settings: dict[str, Any] = {"as_of": self.as_of, "replicates": self.replicates, "progress": self.progress}
        return Reference.of(self.scorer.bundle, seen, source, self.settings, **settings)

    def compare(self, seen: ScoredWindow, reference: Reference) -> dict[str, Any]:
        """All that is measured, and the alerts."""
        kind, least = self.settings.window, self.settings.min_frauds
        windows, whole = Windows.of(seen.start, seen.end, kind), Windows.whole(seen.start, seen.end)
        measure: dict[str, Any] = {"as_of": self.as_of, "min_frauds": least, "replicates": self.replicates}
        found: dict[str, Any] = {
            "as_of": iso_time(self.as_of),
            "range": whole.names()[0],
            "n": len(seen),
            "windows": windows.names(),
            "reference": {"source": reference.source, "as_of": reference.as_of, **reference.facts},
            "features": compare_features(seen, reference, windows),
            "scores": compare_scores(seen, reference, windows),
            "volume": compare_volume(seen, reference.by_weekday, windows),
            "performance": {
                "reference": dict(reference.performance),
                "whole": performance(seen, whole, **measure)[0],
                "windows": performance(seen, windows, **measure, progress=self.progress),
            },
        }
        return {**found, "alerts": find_alerts(found, self.settings)}


def _sound(store: EventStore, seconds: tuple[float, float], what: str) -> tuple[float, float]:
    """The range without what clocks that are wrong date far ahead, where it has no end of its own."""
    start, end = seconds
    last = sound_end(store.time_seconds, time.time())
    stray = int(np.count_nonzero(np.asarray(store.time_seconds) > last))
    if not stray or math.isfinite(end):
        return seconds
    _log.warning("%s: %d payments dated after %s are left out; --to takes them in", what, stray, iso_time(last))
    return start, math.nextafter(last, math.inf)


def _payments_of_reference(
    bundle: Path, encoding: _Encoding, store: EventStore, reference: Logs, span: Span
) -> tuple[EventStore, tuple[float, float], str]:
    """The store that holds the reference's payments, their range in seconds, and where they are from, in words."""
    if reference:
        source = ", ".join(Path(name).name for name in map(str, reference))
        other = encoding.store("reference", reference)
        return other, _sound(other, span.seconds, "the reference"), source
    return _calibrated_on(bundle) if span.is_open else (store, span.seconds, "other payments of the log")


def _settings(scorer: Scorer, market: Path | None, overrides: Sequence[str]) -> Monitoring:
    """The `[monitoring]` table of a market file, or of the bundle's own."""
    own = scorer.bundle.market if market is None else Market.load(market, overrides)
    return own.monitoring or Monitoring()


def _check_spans(span: Span, reference_span: Span, reference: Logs) -> None:
    """Refuse, before anything is scored, what cannot be right."""
    (start, end), (first, last) = span.seconds, reference_span.seconds
    if _is_reference_file(reference) and not reference_span.is_open:
        raise ConfigError("a reference.json has its range already, but another one is given for it")
    if not reference and not reference_span.is_open and first < end and start < last:
        raise ConfigError(
            "the reference must not overlap the payments monitored, but "
            f"{reference_span.start} to {reference_span.end} is the reference, {span.start} to {span.end} monitored"
        )


def _is_reference_file(reference: Logs) -> Path | None:
    """The file, where the reference is one that an earlier call wrote."""
    if len(reference) != 1 or not (path := Path(reference[0])).is_file() or path.suffix != ".json":
        return None
    with path.open("rb") as file:
        return path if KIND.encode() in file.read(PEEK) else None


def _calibrated_on(bundle: Path) -> tuple[EventStore, tuple[float, float], str]:
    """The range that the bundle was calibrated on, where it still stands in its run. ConfigError asks for a reference."""
    try:
        if bundle.resolve().name != "bundle":
            raise ConfigError(f"{bundle} is not the bundle of a run")
        run = TrainedRun.open(bundle.resolve().parent)
        learned = run.metadata["training"].get("train_on", ["train"])
        name = next((name for name in ("calibration", "validation") if name not in learned), None)
        if name is None:
            raise StoreError("all of its ranges were learned from")
    except TSAError as error:
        raise ConfigError(
            f"a --reference is needed: the payments that {bundle} was calibrated on are not at hand ({error})"
        ) from None
    times, split = run.store.time_seconds, run.store.manifest["splits"][name]
    return (
        run.store,
        (float(split["start_seconds"]), min(float(split["end_seconds"]), float(times[-1]) + 1)),
        f"the {name} range of the run",
    )


def _head(scorer: Scorer, store: EventStore, settings: Monitoring) -> dict[str, Any]:
    """What was looked at, and by which thresholds."""
    report: Mapping[str, Any] = store.data_report
    rows = {
        key: report[key] for key in ("rows_read", "rows_kept", "rows_excluded", "rows_quarantined") if key in report
    }
    return {
        "market": scorer.bundle.market.name,
        "bundle": scorer.bundle.sha256,
        "rows": rows,
        "top_k": scorer.bundle.market.evaluation.top_k,
        "calibrated": scorer.bundle.calibration is not None and scorer.bundle.calibration.probability is not None,
        "settings": settings.model_dump(mode="json"),
    }
