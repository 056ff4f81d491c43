"""Wire rows from files, a block at a time: TSV and CSV (`__DOT__` for a dot), JSON, JSON lines, Parquet.

It knows formats and names of fields. It does not know what a value means, nor which rows are good.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from tsa.config.market import Market
from tsa.config.toml import suggest
from tsa.data.log import columns
from tsa.data.log.file_heads import SEPARATORS
from tsa.data.log.paths import find_files
from tsa.data.log.read_errors import why_unreadable
from tsa.data.log.rules import needed_columns, the_first
from tsa.data.log.sources import EXTRA, Source, open_sources
from tsa.data.spelling import Spelling
from tsa.data.wire.layout import FieldLayout
from tsa.data.wire.row_errors import RowErrors
from tsa.data.wire.spelling import OwnTexts
from tsa.errors import DataError

DOT = "__DOT__"
TEXT = {str}
SPELLED = Spelling(frozenset(), exact=True)
BLOCK_ROWS = 512
"""Rows that are read at a time: 50 MB of a market of EU's size."""


@dataclass(frozen=True)
class RowBlock:
    """Some rows, in file order."""

    frame: pl.DataFrame
    """The columns of the payment itself as texts; null where a row lacks the field."""
    histories: list[tuple[str, ...]]
    """Per row its K history fields."""
    problems: RowErrors
    """Rows that lack a field, or hold something else than a text there."""


@dataclass(frozen=True)
class WireFile:
    """One file of wire rows. JSON from a local file is read here; all other ways are those of logs."""

    layout: FieldLayout
    path: str
    source: Source | None
    need_label: bool

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[RowBlock]:
        """All rows, so many at a time. Raises DataError for a file that cannot be read or lacks a column."""
        try:
            yield from self._json_blocks(rows) if self.source is None else self._table_blocks(self.source, rows)
        except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
            # Polars shows what stands where it stops
            kind = "json" if self.source is None else self.source.kind
            raise why_unreadable(self.path, kind, error, is_veiled=self._veiled) from None

    def _json_blocks(self, rows: int) -> Iterator[RowBlock]:
        found, spelling = _json_rows(self.path), OwnTexts(self.layout)
        while block := list(islice(found, rows)):
            yield block_of(self.layout, spelling, block)

    def _table_blocks(self, source: Source, rows: int) -> Iterator[RowBlock]:
        names = self._names(source)
        frame = source.scan(list(names.values())).rename({raw: name for name, raw in names.items() if raw != name})
        spelling = OwnTexts(self.layout)
        texts = [self._as_text(spelling, name, source.schema[raw], source.kind) for name, raw in names.items()]
        if (own := self.layout.market.event.id) not in names:
            texts.append(pl.lit("").alias(own))
        extra = pl.col(EXTRA) if EXTRA in source.schema else pl.lit(None, pl.String).alias(EXTRA)
        for block in frame.select(*texts, extra).collect_batches(chunk_size=rows, maintain_order=True):
            yield self._checked(block)

    def _as_text(self, spelling: OwnTexts, name: str, kind: pl.DataType, format_: str) -> pl.Expr:
        """A column as texts. An empty field of a table is an empty text; null elsewhere is a field that is not there, but
        where the market knows what it means."""
        text = pl.col(name) if isinstance(kind, pl.String) else columns.text(name, kind, SPELLED).alias(name)
        if isinstance(kind, pl.Boolean) and name in self.layout.categorical:
            text = (
                pl.when(pl.col(name))
                .then(pl.lit(spelling.of_truth(name, True)))
                .when(~pl.col(name))
                .then(pl.lit(spelling.of_truth(name, False)))
                .alias(name)
            )
        if name == self.layout.market.event.id or (format_ in SEPARATORS and isinstance(kind, pl.String)):
            return text.fill_null("")
        return text.fill_null(str(None)) if name in spelling.of_null else text

    @property
    def _veiled(self) -> bool:
        """Whether some values must not be told as they are."""
        privacy = self.layout.market.privacy
        return privacy is not None and bool(privacy.pseudonymise)

    @property
    def _has_quotes(self) -> bool:
        return self.source is not None and self.source.kind in SEPARATORS and self.source.kind != "tsv"

    @property
    def _told(self) -> frozenset[str]:
        return frozenset(self.layout.history_fields)

    def _checked(self, block: pl.DataFrame) -> RowBlock:
        problems = RowErrors()
        extra = block[EXTRA].is_not_null()
        found = zip(extra.arg_true().to_list(), block[EXTRA].filter(extra).to_list(), strict=True)
        broken = [("extra_field", row, "row", value) for row, value in found]
        for name in _broken_lines(block.drop(EXTRA)) if self._has_quotes else ():
            rows = block[name].str.contains("\n", literal=True).fill_null(False).arg_true().to_list()
            broken += [("line_break", row, name, block[name][row]) for row in rows]
        for rule, row, name, value in broken:
            problems.note(rule, [(row, name, "" if self._veiled else value)])
        if broken and self._veiled:  # what is to be veiled may stand in any field of such a row
            whole = pl.int_range(pl.len()).is_in([row for _, row, _, _ in broken]).not_()
            block = block.with_columns(pl.when(whole).then(pl.exclude(EXTRA)).otherwise(pl.lit("")).name.keep())
        gaps = block.select(*self.layout.history_fields, *self.layout.current).null_count().row(0, named=True)
        for name in [name for name, count in gaps.items() if count]:
            problems.note("missing_field", ((row, name, "") for row in block[name].is_null().arg_true().to_list()))
        told = block.select(pl.col(self.layout.history_fields).fill_null("")).rows()
        others = [name for name in block.columns if name not in self._told and name != EXTRA]
        return RowBlock(block.select(others), told, problems)

    def _names(self, source: Source) -> dict[str, str]:
        """Column as the market calls it -> as the file does."""
        known: dict[str, str] = {}
        for raw in source.schema:
            other = known.setdefault(raw.replace(DOT, "."), raw)
            if other != raw:
                raise DataError(f"{self.path}: a column must stand there once (got {raw!r} beside {other!r})")
        layout = self.layout
        needed = {*layout.current, *layout.history_fields, *needed_columns(layout.market, need_label=self.need_label)}
        needed -= {layout.market.event.id}
        wanted = (*layout.current, *layout.others, *layout.history_fields)
        others = [name for name in known if name not in wanted and not name.startswith("__")]
        found = [f"{name}: missing{suggest(name, others)}" for name in wanted if name in needed and name not in known]
        told = {name: source.schema[known[name]] for name in layout.history_fields if name in known}
        found += [f"{name}: must be a text (got {kind})" for name, kind in told.items() if kind != pl.String]
        if found:
            lines = the_first(found, [source.schema])
            raise DataError("\n  ".join([f"{self.path}: columns do not fit the market", *lines]))
        return {name: known[name] for name in wanted if name in known}


def _broken_lines(block: pl.DataFrame) -> list[str]:
    """Names of the columns in which a text goes over several lines."""
    broken = block.select(pl.all().str.contains("\n", literal=True).any())
    return [name for name, found in (broken.row(0, named=True) if len(block) else {}).items() if found]


def open_files(market: Market, logs: Sequence[str], *, need_label: bool) -> list[WireFile]:
    """The files of wire rows, in order. Raises DataError for one that is missing or of no known format."""
    layout, files = FieldLayout(market), []
    for path, kind in find_files(logs):
        local_json = kind == "json" and "://" not in path
        source = None if local_json else open_sources([path], [])[0]
        files.append(WireFile(layout, path, source, need_label))
    return files


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines, or of one JSON array, or the only one that is there."""
    with io.BufferedReader(pa.input_stream(path), 2**20) as stream:
        first = stream.readline()
        if _is_whole(path, first):
            yield from _objects(path, loads(first + stream.read(), path))
            return
        for number, line in enumerate(chain([first], stream), 1):
            if line.strip():
                row = loads(line, f"{path}: line {number}")
                if not isinstance(row, dict):
                    raise DataError(f"{path}: line {number} must hold a JSON object (got {type(row).__name__})")
                yield row


def _is_whole(path: str, first: bytes) -> bool:
    """Whether the file is one JSON value: an array, or what a `.json` file has spread over lines."""
    if first.lstrip()[:1] == b"[":
        return True
    try:
        return not isinstance(orjson.loads(first), dict)
    except orjson.JSONDecodeError:
        return ".json" in Path(path).suffixes


def loads(text: bytes | str, what: str) -> Any:
    """A JSON value. Raises DataError that says of what."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{what} must be JSON (got {error})") from None


def _objects(path: str, value: Any) -> list[dict[str, Any]]:
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: must hold JSON objects (got {type(value).__name__})")
    return rows


def block_of(layout: FieldLayout, spelling: OwnTexts, rows: Sequence[dict[str, Any]]) -> RowBlock:
    """Rows of JSON as a block."""
    problems = RowErrors()
    names = layout.current + layout.others
    told = told_texts(layout, rows, problems)
    own = own_texts(layout, spelling, rows, problems)
    values = [[spelling.of(name, row.get(name), there=False) for row in rows] for name in layout.others]
    values = [*map(list, zip(*own, strict=True)), *values]
    frame = pl.DataFrame([pl.Series(name, column, pl.String) for name, column in zip(names, values, strict=True)])
    return RowBlock(frame, told, problems)


def told_texts(layout: FieldLayout, rows: Sequence[Mapping[str, Any]], problems: RowErrors) -> list[tuple[str, ...]]:
    """Per row its history fields. One that is not there, or no text, counts as empty and is noted."""
    names, found = layout.history_fields, []
    get = itemgetter(*names)
    for at, row in enumerate(rows):
        try:
            values = get(row)
        except KeyError:
            values = tuple(map(row.get, names))
        if set(map(type, values)) != TEXT:
            values = _only_texts(layout, at, row, values, problems)
        found.append(values)
    return found


def _only_texts(
    layout: FieldLayout, at: int, row: Mapping[str, Any], values: tuple[Any, ...], problems: RowErrors
) -> tuple[str, ...]:
    """The history fields of a row, what is no text noted. The legacy system looks no further into a history that is empty."""
    for history in layout.histories:
        deciding = history.batches or (history.parts[0].id,)
        texts = [values[place] for place in deciding]
        unread = layout.wire.legacy and all(isinstance(text, str) for text in texts)
        unread = unread and any(text in layout.wire.missing for text in texts)
        for place in range(history.fields.start, history.fields.stop):
            name, value = layout.history_fields[place], values[place]
            if not isinstance(value, str) and not (unread and name in row):
                problems.note(*_problem(at, name, value))
    return tuple(value if isinstance(value, str) else "" for value in values)


def own_texts(
    layout: FieldLayout, spelling: OwnTexts, rows: Sequence[Mapping[str, Any]], problems: RowErrors
) -> list[tuple[str, ...]]:
    """Per row the fields of the payment itself as texts. One that is not there, or can be no text, is noted."""
    names, found = layout.current, []
    get = itemgetter(*names)
    for at, row in enumerate(rows):
        try:
            values = get(row)
        except KeyError:
            values = tuple(map(row.get, names))
        if set(map(type, values)) != TEXT:
            texts = [spelling.of(n, v, there=n in row) for n, v in zip(names, values, strict=True)]
            for name, value, text in zip(names, values, texts, strict=True):
                if text is None:
                    problems.note(*_problem(at, name, value))
            values = tuple(text or "" for text in texts)
        found.append(values)
    return found


def _problem(row: int, name: str, value: Any) -> tuple[str, list[tuple[int, str, str]]]:
    """The kind of the value alone is told: what stands in it may have to be veiled."""
    rule, kind = ("missing_field", "") if value is None else ("not_a_text", f"a {type(value).__name__}")
    return rule, [(row, name, kind)]
