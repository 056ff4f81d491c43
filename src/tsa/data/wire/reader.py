"""Read files of wire rows: into a clean table as of a log, and a store of the earlier payments that the rows carry.

Each file is parsed once. Bad rows are only flagged here; `clean_log` refuses them or writes them to quarantine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.log.quarantine import REASON, Quarantine, QuarantineLike
from tsa.data.log.reader import CleanLog, clean_log
from tsa.data.log.sorting import ROW_GROUP, ParquetChunkWriter
from tsa.data.log.sources import Source
from tsa.data.log.validation import PROBLEM, PROBLEM_VALUE
from tsa.data.spelling import UNIT_SCALE
from tsa.data.wire.event_pool import EventPool
from tsa.data.wire.event_segments import EmbeddedHistoryStore, Segments
from tsa.data.wire.files import RowBlock, open_files
from tsa.data.wire.histories import visible_events
from tsa.data.wire.layout import FieldLayout, HistoryFields
from tsa.data.wire.quarantine import ROW, write_rows
from tsa.data.wire.row_errors import RowError, RowErrors
from tsa.data.wire.row_pieces import HistoryRows, pieces_of
from tsa.data.wire.tokens import split_texts
from tsa.data.wire.values import Values
from tsa.errors import DataError
from tsa.files.writing import atomic_file

CHUNK_ROWS = 16
"""Rows whose pieces are processed together: few enough for the processor's cache."""

STAGED_ROWS = 8192
"""Rows that are cleaned and written together."""


@contextmanager
def read_wire(
    market: Market, logs: Sequence[str], out: Path, *, quarantine: QuarantineLike, encoder: Encoder | None
) -> Iterator[tuple[CleanLog, EmbeddedHistoryStore]]:
    """Read wire rows into a clean table in `out`, as `read_log` makes it, and a store of their earlier payments.

    The store has temporary files next to `out`, which are deleted when the block ends.

    Args:
        encoder: The encoder that the rows are for; it says which numbers it can scale. None: the rows are for training,
            so they need an outcome.

    Raises:
        DataError: As `read_log`.
    """
    need_label = encoder is None
    files = open_files(market, logs, need_label=need_label)
    values = Values.of(FieldLayout(market), encoder)
    folder = out.with_name(f".{out.name}.wire")
    with ExitStack() as stack:
        folder.mkdir(parents=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        reading = stack.enter_context(Reading(values, folder))
        for file in files:
            for block in file.blocks():
                reading.take(block)
        source = reading.staged(tuple(file.path for file in files))
        given = Quarantine.of(quarantine)
        staged_quarantine = (
            None if given is None else replace(given, path=folder / "quarantine.parquet", reported_as=given.path)
        )
        pseudonymized = market if values.pseudonyms is None else values.pseudonyms.market(market)
        try:
            clean = clean_log(
                pseudonymized, [source], out, quarantine=staged_quarantine, need_label=need_label, domains={}
            )
        finally:
            if given is not None and staged_quarantine is not None and staged_quarantine.path.exists():
                bad = pl.read_parquet(staged_quarantine.path, columns=[ROW, REASON])
                write_rows(files, bad, values.pseudonyms, given.path)
        yield clean, EmbeddedHistoryStore(values, reading.pool, reading.segments, _pop_row_numbers(out))


def _pop_row_numbers(out: Path) -> NDArray[np.int64]:
    """(n,) the row in the files of each row of the clean table. The column is removed from the table."""
    rows = pl.read_parquet(out, columns=[ROW])[ROW].to_numpy()
    with atomic_file(out) as temporary:
        pl.scan_parquet(out).drop(ROW).sink_parquet(temporary, compression="lz4", row_group_size=ROW_GROUP)
    return rows


@dataclass(frozen=True, kw_only=True)
class StagedSource(Source):
    """Rows that were read and checked before; `paths` are the files that they came from."""

    staged: Path

    def by_file(self) -> list[Source]:
        """The rows of all files are in one."""
        return [self]

    def scan(self, columns: Sequence[str], *, file: str | None = None) -> pl.LazyFrame:
        """As `Source.scan`. The file of a row is no longer known."""
        present = [name for name in (*columns, *self.passthrough) if name in self.schema]
        file_column = [] if file is None else [pl.lit(None, pl.String).alias(file)]
        return pl.scan_parquet(self.staged).select(*present, *file_column)


@dataclass
class Reading:
    """The state of one pass over the files."""

    values: Values
    folder: Path
    rows: int = 0
    rule_texts: dict[str, str] = field(default_factory=dict)
    """By name of a rule that rows broke: its text."""

    def __enter__(self) -> Self:
        layout = self.values.layout
        bounds, sizes = self.values.bounds(layout.numerical), (len(layout.categorical), len(layout.numerical))
        refused, self._read = self.values.is_refused_in_history, self.values.read
        self.pool = EventPool(self.folder, *sizes, bounds, refused=refused, read=self._read)
        self.segments = {history.name: Segments(self.folder / f"{history.name}.rows") for history in layout.histories}
        self._stack = ExitStack()
        self._stack.enter_context(self.pool)
        self._parts = self._stack.enter_context(ExitStack())
        self._writer = self._parts.enter_context(ParquetChunkWriter(self._path))
        self._pending: list[tuple[pl.DataFrame, RowErrors]] = []
        self._seen: set[str] = set(layout.current)
        return self

    def __exit__(self, *_: object) -> None:
        for segments in self.segments.values():
            segments.close()
        self._stack.close()

    @property
    def _path(self) -> Path:
        return self.folder / "staged.parquet"

    def take(self, block: RowBlock) -> None:
        """Read the next rows."""
        block = replace(block, frame=self.values.parseable(block.frame))
        now = _seconds(self.values, block.frame)
        for low in range(0, len(now), CHUNK_ROWS):
            self._read_histories(block, low, now[low : low + CHUNK_ROWS])
        self._pending.append((block.frame, block.problems))
        if sum(len(frame) for frame, _ in self._pending) >= STAGED_ROWS:
            self._write()

    def _read_histories(self, block: RowBlock, low: int, now: NDArray[np.float64]) -> None:
        """Add the earlier payments of the rows from `low` on to the pool, and record which rows break a rule."""
        layout, problems = self.values.layout, RowErrors()
        texts = block.histories[low : low + len(now)]
        tokens = split_texts(list(chain.from_iterable(texts)), layout.wire.separator)
        missing, numbers = tokens.are(layout.wire.missing), np.full(len(tokens.start), np.nan)
        fields = np.arange(len(now))[:, None] * len(layout.history_fields) + layout.times
        times = pieces_of(tokens, fields.ravel())
        numbers[times] = tokens.numbers(times, missing[times], self._read)
        rows = HistoryRows(layout, tokens, missing, numbers, now)
        events_by_history = [(history, visible_events(rows, history, problems)) for history in layout.histories]
        valid = ~np.isin(np.arange(len(now)), [*problems, *(row - low for row in block.problems)])
        for history, events in events_by_history:
            events = events.take(valid[events.row])
            pieces = dict(zip(history.kinds, events.tokens(rows, history), strict=True))
            none = np.empty((len(events.row), 0), np.int64)
            pair = pieces.get("categorical", none), pieces.get("numerical", none)
            known = self.pool.add(tokens, *pair, events.time_seconds, missing)
            self._note_wrong(history, events.row, known, problems)
            self.segments[history.name].add(np.bincount(events.row, minlength=len(now)), known)
        for row, problem in problems.items():
            block.problems.setdefault(low + row, problem)

    def _note_wrong(
        self, history: HistoryFields, row: NDArray[Any], numbers: NDArray[Any], problems: RowErrors
    ) -> None:
        """Record the rows with an earlier payment that has an unusable value, whether it is new or repeated."""
        for at in self.pool.find_wrong(numbers).tolist():
            wrong = self.pool.wrong[int(numbers[at])]
            part = history.parts[history.kinds.index(wrong.kind)]
            problems.note(wrong.rule, [(row[at], part.fields[wrong.feature], wrong.text)])

    def _write(self) -> None:
        """Clean and write the pending rows."""
        frames, problems, first = [], RowErrors(), 0
        for frame, errors in self._pending:
            frames.append(frame)
            problems.update((first + row, problem) for row, problem in errors.items())
            first += len(frame)
        self._pending = []
        joined = pl.concat(frames, how="diagonal")
        clean = _clean(self.values, joined, problems, self.rows)
        self._seen.update(name for name in clean.columns if clean[name].null_count() < len(clean))
        self.rule_texts.update((problem.name, problem.text) for problem in problems.values())
        self._writer.write(
            clean.with_columns(_row_numbers(self.rows, len(clean)), *_problem_columns(problems, len(clean)))
        )
        self.rows += len(clean)

    def staged(self, paths: tuple[str, ...]) -> StagedSource:
        """All rows as a source.

        Raises:
            DataError: If there are none.
        """
        if self._pending:
            self._write()
        if not self.rows:
            raise DataError("log: must hold at least one row, but it is empty")
        self._parts.close()
        schema = dict(pl.scan_parquet(self._path).collect_schema())
        carried = (ROW, PROBLEM, PROBLEM_VALUE)
        used = {name: kind for name, kind in schema.items() if name in self._seen or name in carried}
        return StagedSource(
            kind="parquet",
            paths=paths,
            schema=used,
            passthrough=carried,
            precomputed_rules=self.rule_texts,
            staged=self._path,
        )


def _row_numbers(first: int, n: int) -> pl.Series:
    return pl.int_range(first, first + n, eager=True).alias(ROW)


def _problem_columns(problems: dict[int, RowError], n: int) -> list[pl.Series]:
    rows = list(problems)
    columns = {
        PROBLEM: [problem.name for problem in problems.values()],
        PROBLEM_VALUE: [p.value for p in problems.values()],
    }
    return [
        pl.Series(name, [None], dtype=pl.String).new_from_index(0, n).scatter(rows, texts)
        if rows
        else pl.Series(name, [None], dtype=pl.String).new_from_index(0, n)
        for name, texts in columns.items()
    ]


def _seconds(values: Values, frame: pl.DataFrame) -> NDArray[np.float64]:
    """(n,) the payments' times. NaN for a text that is not a time, which a rule on logs reports."""
    event = values.layout.market.event
    times = frame.select(values.number(event.time))[event.time].fill_null(np.nan).to_numpy()
    return times / UNIT_SCALE[event.time_unit or "s"]


def _clean(values: Values, frame: pl.DataFrame, problems: RowErrors, first: int) -> pl.DataFrame:
    """The payments' own columns as in a log; unusable values are added to `problems`.

    Args:
        first: The number of the first row.
    """
    layout = values.layout
    numbers = (*layout.numerical, *layout.engineered, layout.market.event.time)
    features = {*numbers, *layout.categorical}
    broken = {"not_a_number": frame.select(values.bad_number(name).alias(name) for name in numbers)}
    if values.domains:
        broken["out_of_range"] = frame.select(values.outside(name).alias(name) for name in values.domains)
    for rule, wrong in broken.items():
        for name in [name for name, count in wrong.sum().row(0, named=True).items() if count]:
            rows = wrong[name].arg_true().to_list()
            problems.note(rule, ((row, name, frame[name][row]) for row in rows if frame[name][row] is not None))
    problems.note("not_a_number", values.unreadable(frame))
    other_columns = [
        pl.when(~values.missing(name)).then(pl.col(name)).alias(name) for name in frame.columns if name not in features
    ]
    texts, read = map(values.text, layout.categorical), map(values.number, numbers)
    clean = frame.select(*other_columns, *texts, *read)
    if (pseudonyms := values.pseudonyms) is not None:
        clean = pseudonyms.frame(clean, leave=layout.categorical)
    # the id is optional: the row's number replaces it
    made = pl.format("row {}", pl.int_range(first + 1, first + 1 + len(clean)))
    return clean.with_columns(pl.coalesce(layout.market.event.id, made).alias(layout.market.event.id))
