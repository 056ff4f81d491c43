"""Read files of wire rows: the payments as a clean table, as of a log, and the earlier payments that they tell of.

Each file is parsed once. What breaks a rule of rows is noted beside the row; refusing rows or setting them aside is left
to the same code as for logs. It does not know how values are encoded.
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
from tsa.data.log.quarantine import Quarantine, SetAside
from tsa.data.log.reader import CleanLog, clean_log
from tsa.data.log.sorting import ROW_GROUP, ParquetChunkWriter
from tsa.data.log.sources import Source
from tsa.data.log.validation import PROBLEM, PROBLEM_VALUE, REASON
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
"""Rows whose pieces are worked on together: what they need stays in the processor's cache."""

STAGED_ROWS = 8192
"""Rows that are cleaned and written together."""


@contextmanager
def read_wire(
    market: Market, logs: Sequence[str], out: Path, *, quarantine: SetAside, encoder: Encoder | None
) -> Iterator[tuple[CleanLog, EmbeddedHistoryStore]]:
    """The clean table of wire rows in `out`, as `read_log` makes it, and what the rows tell of earlier payments.

    encoder: what will encode them, which says what numbers it can scale; None: they are to be learned from, so they need
    an outcome. What the earlier payments need stands in files beside `out` until the block ends. Raises DataError as
    `read_log` does.
    """
    need_label = encoder is None
    files = open_files(market, logs, need_label=need_label)
    values = Values.of(FieldLayout(market), encoder)
    aside = out.with_name(f".{out.name}.wire")
    with ExitStack() as stack:
        aside.mkdir(parents=True)
        stack.callback(shutil.rmtree, aside, ignore_errors=True)
        reading = stack.enter_context(Reading(values, aside))
        for file in files:
            for block in file.blocks():
                reading.take(block)
        source = reading.staged(tuple(file.path for file in files))
        told = Quarantine.of(quarantine)
        set_aside = None if told is None else replace(told, path=aside / "quarantine.parquet", reported_as=told.path)
        seen = market if values.pseudonyms is None else values.pseudonyms.market(market)
        try:
            clean = clean_log(seen, [source], out, quarantine=set_aside, need_label=need_label, domains={})
        finally:
            if told is not None and set_aside is not None and set_aside.path.exists():
                bad = pl.read_parquet(set_aside.path, columns=[ROW, REASON])
                write_rows(files, bad, values.pseudonyms, told.path)
        yield clean, EmbeddedHistoryStore(values, reading.pool, reading.segments, _taken_out(out))


def _taken_out(out: Path) -> NDArray[np.int64]:
    """(n,) which row of the files each row of the clean table was; the table itself does not go on telling so."""
    rows = pl.read_parquet(out, columns=[ROW])[ROW].to_numpy()
    with atomic_file(out) as aside:
        pl.scan_parquet(out).drop(ROW).sink_parquet(aside, compression="lz4", row_group_size=ROW_GROUP)
    return rows


@dataclass(frozen=True, kw_only=True)
class StagedSource(Source):
    """Rows that were read and checked already; `paths` are the files that they came from."""

    staged: Path

    def scan(self, columns: Sequence[str], *, file: str | None = None) -> pl.LazyFrame:
        """As `Source.scan`; which of the files a row stands in is no longer known."""
        present = [name for name in (*columns, *self.passthrough) if name in self.schema]
        told = [] if file is None else [pl.lit(None, pl.String).alias(file)]
        return pl.scan_parquet(self.staged).select(*present, *told)


@dataclass
class Reading:
    """One pass over the files: what was read so far."""

    values: Values
    folder: Path
    rows: int = 0
    noted: dict[str, str] = field(default_factory=dict)
    """The rules that rows broke, and what they expect."""

    def __enter__(self) -> Self:
        layout = self.values.layout
        bounds, sizes = self.values.bounds(layout.numerical), (len(layout.categorical), len(layout.numerical))
        refused, self._read = self.values.refused_when_told, self.values.read
        self.pool = EventPool(self.folder, *sizes, bounds, refused=refused, read=self._read)
        self.segments = {history.name: Segments(self.folder / f"{history.name}.rows") for history in layout.histories}
        self._stack = ExitStack()
        self._stack.enter_context(self.pool)
        self._parts = self._stack.enter_context(ExitStack())
        self._writer = self._parts.enter_context(ParquetChunkWriter(self._path))
        self._waiting: list[tuple[pl.DataFrame, RowErrors]] = []
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
        """Read some further rows."""
        block = replace(block, frame=self.values.tidied(block.frame))
        now = _seconds(self.values, block.frame)
        for low in range(0, len(now), CHUNK_ROWS):
            self._read_histories(block, low, now[low : low + CHUNK_ROWS])
        self._waiting.append((block.frame, block.problems))
        if sum(len(frame) for frame, _ in self._waiting) >= STAGED_ROWS:
            self._write()

    def _read_histories(self, block: RowBlock, low: int, now: NDArray[np.float64]) -> None:
        """Put what rows from `low` on tell of earlier payments into the pool; note which rows break a rule."""
        layout, problems = self.values.layout, RowErrors()
        told = block.histories[low : low + len(now)]
        tokens = split_texts(list(chain.from_iterable(told)), layout.wire.separator)
        missing, numbers = tokens.are(layout.wire.missing), np.full(len(tokens.start), np.nan)
        fields = np.arange(len(now))[:, None] * len(layout.history_fields) + layout.times
        times = pieces_of(tokens, fields.ravel())
        numbers[times] = tokens.numbers(times, missing[times], self._read)
        rows = HistoryRows(layout, tokens, missing, numbers, now)
        found = [(history, visible_events(rows, history, problems)) for history in layout.histories]
        sound = ~np.isin(np.arange(len(now)), [*problems, *(row - low for row in block.problems)])
        for history, events in found:
            events = events.take(sound[events.row])
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
        """Rows that tell of a payment with a value that cannot be used, be it met here for the first time or not."""
        for at in self.pool.find_wrong(numbers).tolist():
            wrong = self.pool.wrong[int(numbers[at])]
            part = history.parts[history.kinds.index(wrong.kind)]
            problems.note(wrong.rule, [(row[at], part.fields[wrong.feature], wrong.text)])

    def _write(self) -> None:
        """Clean and write the rows that wait."""
        frames, problems, first = [], RowErrors(), 0
        for frame, found in self._waiting:
            frames.append(frame)
            problems.update((first + row, problem) for row, problem in found.items())
            first += len(frame)
        self._waiting = []
        joined = pl.concat(frames, how="diagonal")
        clean = _clean(self.values, joined, problems, self.rows)
        self._seen.update(name for name in clean.columns if clean[name].null_count() < len(clean))
        self.noted.update((problem.name, problem.text) for problem in problems.values())
        self._writer.write(
            clean.with_columns(_row_numbers(self.rows, len(clean)), *_problem_columns(problems, len(clean)))
        )
        self.rows += len(clean)

    def staged(self, paths: tuple[str, ...]) -> StagedSource:
        """Everything that was read. Raises DataError when that is nothing."""
        if self._waiting:
            self._write()
        if not self.rows:
            raise DataError("log: must hold at least one row, but it is empty")
        self._parts.close()
        schema = dict(pl.scan_parquet(self._path).collect_schema())
        carried = (ROW, PROBLEM, PROBLEM_VALUE)
        kept = {name: kind for name, kind in schema.items() if name in self._seen or name in carried}
        return StagedSource(
            kind="parquet",
            paths=paths,
            schema=kept,
            passthrough=carried,
            precomputed_rules=self.noted,
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
    """(n,) the payments' times; NaN for what is none, which a rule on logs finds."""
    event = values.layout.market.event
    times = frame.select(values.number(event.time))[event.time].fill_null(np.nan).to_numpy()
    return times / UNIT_SCALE[event.time_unit or "s"]


def _clean(values: Values, frame: pl.DataFrame, problems: RowErrors, first: int) -> pl.DataFrame:
    """The payments' own columns as a log has them; values that cannot be used are noted. first: the number of the first row."""
    layout = values.layout
    numbers = (*layout.numerical, *layout.engineered, layout.market.event.time)
    told = {*numbers, *layout.categorical}
    broken = {"not_a_number": frame.select(values.bad_number(name).alias(name) for name in numbers)}
    if values.domains:
        broken["out_of_range"] = frame.select(values.outside(name).alias(name) for name in values.domains)
    for rule, wrong in broken.items():
        for name in [name for name, count in wrong.sum().row(0, named=True).items() if count]:
            rows = wrong[name].arg_true().to_list()
            problems.note(rule, ((row, name, frame[name][row]) for row in rows if frame[name][row] is not None))
    problems.note("not_a_number", values.unreadable(frame))
    others = [
        pl.when(~values.missing(name)).then(pl.col(name)).alias(name) for name in frame.columns if name not in told
    ]
    texts, read = map(values.text, layout.categorical), map(values.number, numbers)
    clean = frame.select(*others, *texts, *read)
    if (veil := values.pseudonyms) is not None:
        clean = veil.frame(clean, leave=layout.categorical)
    # callers need not send an id: the row's number stands in its place
    made = pl.format("row {}", pl.int_range(first + 1, first + 1 + len(clean)))
    return clean.with_columns(pl.coalesce(layout.market.event.id, made).alias(layout.market.event.id))
