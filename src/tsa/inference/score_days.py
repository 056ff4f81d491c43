"""Scores of a store by day: a folder with a Parquet file for each day (UTC), which appears when all days are there.

    2025-04-16.parquet ...   id, raw_score and the columns that the bundle is calibrated for, in time order
    scores.json              the bundle, the store, and rows, size and sha256 of each file

Days are scored one by one, here or by workers, by the same function (`score_day`), into a hidden folder next to the output.
A run that was killed continues there: days that are complete are not scored again. The scores are to the bit those of
`Scorer.score`: a payment is in the same place of the same batch.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.data.log.paths import SCORES, SCORES_KIND
from tsa.data.log.quarantine import QuarantineLike
from tsa.data.log.sorting import ParquetChunkWriter
from tsa.data.store.manifest import MANIFEST
from tsa.data.store.store import EventStore
from tsa.data.time_range import window_seconds
from tsa.errors import ConfigError
from tsa.files.mounts import cannot_move
from tsa.files.outputs import check_folder
from tsa.files.writing import atomic_file, atomic_folder, file_entry, read_json, sha256_of, write_json
from tsa.inference.score_parts import BATCH_SIZE
from tsa.inference.scorer import PART_ROWS, LogOrStore, Scorer, check_finite
from tsa.progress import Progress, silent

MARKER, PLAN, LOCK = SCORES, "plan.json", "lock"
DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class Day:
    """The scored payments of a day: those from `first` to before `stop` among all payments to score."""

    name: str
    """Such as 2025-04-16."""
    first: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class DayTask:
    """What a worker needs to know to score a day of a store."""

    scored: tuple[int, int]
    """The payments to score: from this one to before that one among all scored events of the store."""
    may_lack_scores: bool
    """Payments without a finite score are left out and named; otherwise they are an error."""


@dataclass(frozen=True, kw_only=True)
class DayScores:
    """A day that was scored."""

    file: bytes | Path
    """The content of its Parquet file, or a file that is moved."""
    unscored: tuple[str, ...] = ()
    """Ids of payments without a finite score."""


ScoreDays = Callable[[DayTask, Sequence[Day], Path], Iterator[tuple[Day, DayScores]]]
"""Scores days and yields each when it is done, in any order. The path is a folder for temporary files."""


@dataclass(frozen=True, kw_only=True)
class ScoredDays:
    """What was written."""

    payments: int
    days: int
    unscored: frozenset[str]


def plan_days(store: EventStore, rows: tuple[int, int]) -> tuple[Day, ...]:
    """The days (UTC) of the store's rows, from one to before the other, that have payments to score, in order."""
    first, last = rows
    if first >= last:
        return ()
    numbers = [int(store.time_seconds[row] // DAY_SECONDS) for row in (first, last - 1)]
    begins = np.arange(numbers[0], numbers[1] + 2)
    at = np.searchsorted(store.time_seconds, begins * float(DAY_SECONDS)).clip(first, last)
    edges = (store.scored_before(at) - store.scored_before(first)).tolist()
    names = (datetime.fromtimestamp(day * DAY_SECONDS, UTC).strftime("%Y-%m-%d") for day in begins.tolist())
    days = zip(names, edges, edges[1:], strict=False)
    return tuple(Day(name=name, first=first, stop=stop) for name, first, stop in days if stop > first)


def score_day(scorer: Scorer, store: EventStore, task: DayTask, day: Day, path: Path) -> tuple[str, ...]:
    """Score a day and write its Parquet file. Returns the ids of payments without a finite score.

    Batches begin at the same payments as when all payments are scored together, so the first and the last one may compute
    payments of the days next to it, which are dropped.

    Raises:
        DataError: For payments without a finite score, unless the task says otherwise.
    """
    unscored, (origin, end) = list[str](), task.scored
    last = min(-(-day.stop // BATCH_SIZE) * BATCH_SIZE, end - origin)
    with ParquetChunkWriter(path, private=True) as file:
        for begin in range(day.first // BATCH_SIZE * BATCH_SIZE, day.stop, PART_ROWS):
            rows = store.scored_part(origin + begin, origin + min(begin + PART_ROWS, last))
            own = slice(max(day.first - begin, 0), day.stop - begin)
            # opened again for each part, to release the memory of the previous memory maps
            scores, ids = scorer.score_rows(store.reopened(), rows)[own], store.ids_of(rows[own])
            file.write(_finite(scorer, ids, scores, unscored if task.may_lack_scores else None))
    return tuple(unscored)


def _finite(scorer: Scorer, ids: pl.Series, scores: NDArray[np.float32], unscored: list[str] | None) -> pl.DataFrame:
    if not (valid := np.isfinite(scores)).all():
        if unscored is None:
            check_finite(ids, scores)
        else:
            unscored += ids.filter(~valid).cast(pl.String).to_list()
            ids, scores = ids.filter(valid), scores[valid]
    return pl.DataFrame({"id": ids, **scorer.with_calibration(scores)})


def local_days(scorer: Scorer, store: EventStore) -> ScoreDays:
    """Score days in this process."""

    def score(task: DayTask, days: Sequence[Day], folder: Path) -> Iterator[tuple[Day, DayScores]]:
        for day in days:
            path = folder / f"{day.name}.tmp"
            unscored = score_day(scorer, store, task, day, path)
            yield day, DayScores(file=path, unscored=unscored)

    return score


def score_by_day(
    scorer: Scorer,
    payments: LogOrStore,
    out: Path,
    *,
    start: str | datetime | None = None,
    end: str | datetime | None = None,
    quarantine: QuarantineLike = None,
    score: Callable[[EventStore], ScoreDays] | None = None,
    settings: Mapping[str, Any],
    progress: Progress = silent,
) -> ScoredDays:
    """Write what `Scorer.score` returns for a log or a store as a folder with a file for each day.

    Args:
        scorer: Scores the payments.
        payments: As for `Scorer.score`.
        out: The folder.
        start: Score only payments from this time on, in UTC.
        end: Score only payments before this time, in UTC.
        quarantine: A file for rows of a log that break a rule or get no finite score; without it they are an error.
        score: Makes what scores the days of the store; None: this process.
        settings: What scores depend on besides the bundle, such as the engine.
        progress: Reports progress.

    Raises:
        DataError: Names the payments that cannot be scored.
        ConfigError: As `write_days`, or for an invalid time.
    """
    window = window_seconds(start, end)

    def again(unscored: frozenset[str]) -> None:
        scorer.quarantine_unscored(payments, quarantine, unscored)

    with scorer.encoded(payments, quarantine=quarantine, progress=progress) as store:
        first, last = (int(row) for row in np.searchsorted(store.time_seconds, window))
        return write_days(
            scorer,
            store,
            out,
            (first, last),
            local_days(scorer, store) if score is None else score(store),
            settings=settings,
            on_unscored=None if quarantine is None else again,
            progress=progress,
        )


def write_days(
    scorer: Scorer,
    store: EventStore,
    out: Path,
    rows: tuple[int, int],
    score: ScoreDays,
    *,
    settings: Mapping[str, Any],
    on_unscored: Callable[[frozenset[str]], None] | None = None,
    progress: Progress = silent,
) -> ScoredDays:
    """Score the payments of a store by day into the folder `out`.

    Args:
        scorer: Its bundle made the store's encoder.
        store: The payments.
        out: The folder, which appears when all days are there. Scores by day that are there are replaced then.
        rows: From the first row of the store to before the last one.
        score: Scores days: `local_days`, or workers.
        settings: What scores depend on besides the bundle, such as the engine.
        on_unscored: Called with the ids of payments without a finite score, before the folder appears. None: they are an
            error.
        progress: Reports progress.

    Raises:
        ConfigError: If `out` has other content, or another process writes it.
        DataError: For payments without a finite score.
    """
    check_folder(out, "scores by day", MARKER)
    scored = int(store.scored_before(rows[0])), int(store.scored_before(rows[1]))
    days, task = plan_days(store, rows), DayTask(scored=scored, may_lack_scores=on_unscored is not None)
    plan = {
        "kind": SCORES_KIND,
        "program": version("tsa-fraud"),
        "bundle": scorer.bundle.sha256,
        "store": sha256_of(store.path / MANIFEST),
        "rows": list(rows),
        "settings": {**settings, "unscored": "left out" if task.may_lack_scores else "an error"},
        "days": [asdict(day) for day in days],
    }
    with _work_folder(out, plan) as work:
        _score_missing(work, days, score, task, progress)
        entries = {day.name: read_json(work / f"{day.name}.json", ConfigError) for day in days}
        unscored = frozenset(id_ for entry in entries.values() for id_ in entry["unscored"])
        if unscored and on_unscored is not None:
            on_unscored(unscored)
        with atomic_folder(out, MARKER, private=True) as folder:
            for day in days:
                os.replace(work / f"{day.name}.parquet", folder / f"{day.name}.parquet")
            payments = sum(day.stop - day.first for day in days) - len(unscored)
            files = {f"{name}.parquet": _without_ids(entry) for name, entry in entries.items()}
            write_json(folder / MARKER, {**plan, "payments": payments, "files": files})
        shutil.rmtree(work, ignore_errors=True)  # while nobody else may begin to fill it
    return ScoredDays(payments=payments, days=len(days), unscored=unscored)


def _score_missing(work: Path, days: Sequence[Day], score: ScoreDays, task: DayTask, progress: Progress) -> None:
    """Score the days that the work folder lacks."""
    left = [day for day in days if not (work / f"{day.name}.json").is_file()]
    with progress("scoring", sum(day.stop - day.first for day in days)) as advance:
        advance(sum(day.stop - day.first for day in days) - sum(day.stop - day.first for day in left))
        for day, scored in score(task, left, work):
            _write_day(work, day, scored)
            advance(day.stop - day.first)


def _write_day(work: Path, day: Day, scored: DayScores) -> None:
    """Write a day's file, and then its entry, which says that the file is complete."""
    path = work / f"{day.name}.parquet"
    if isinstance(scored.file, Path):
        os.replace(scored.file, path)
    else:
        with atomic_file(path, private=True) as temporary:
            temporary.write_bytes(scored.file)
    counts = {"rows": day.stop - day.first - len(scored.unscored), "unscored": list(scored.unscored)}
    write_json(work / f"{day.name}.json", {**file_entry(path), **counts})


def _without_ids(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "unscored": len(entry["unscored"])}


@contextmanager
def _work_folder(out: Path, plan: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the hidden folder of the days of this plan; days of another plan are removed. One process has it at a time."""
    place = out / out.name if cannot_move(out) else out
    work = place.with_name(f".{out.name}.scores.tmp")
    work.mkdir(0o700, parents=True, exist_ok=True)
    with (work / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{out} must be written by one process (another one does): wait for it") from None
        text = json.dumps(plan, sort_keys=True)
        if not (work / PLAN).is_file() or (work / PLAN).read_text(encoding="utf-8") != text:
            _clear(path for path in work.iterdir() if path.name != LOCK)
            (work / PLAN).write_text(text, encoding="utf-8")
        # a run that was killed at its end had moved some files already
        _clear(path for path in work.glob("*-??-??.json") if not path.with_suffix(".parquet").is_file())
        yield work


def _clear(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
