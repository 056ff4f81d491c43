"""Read wire rows from files in blocks: TSV and CSV (`__DOT__` for a dot), JSON, JSON lines, Parquet."""

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
from tsa.data.log.json_lines import why_not_json
from tsa.data.log.paths import find_files
from tsa.data.log.read_errors import why_unreadable
from tsa.data.log.rules import UNUSED, first_findings, needed_columns
from tsa.data.log.sources import EXTRA, Source, open_sources, say_guesses
from tsa.data.spelling import Spelling
from tsa.data.wire.layout import FieldLayout
from tsa.data.wire.row_errors import RowErrors
from tsa.data.wire.spelling import JSON_NULL, OwnTexts
from tsa.errors import DataError

DOT = "__DOT__"
TEXT = {str}
SPELLED = Spelling(frozenset(), exact=True)
BLOCK_ROWS = 512
"""Rows read at a time: about 50 MB for a market with as many features as EU."""


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows of a file, in file order."""

    frame: pl.DataFrame
    """The columns of the payment itself as texts; null where a row lacks the field."""
    histories: list[tuple[str, ...]]
    """The K history fields of each row."""
    problems: RowErrors
    """Rows that lack a field, or have a value there that is not a text."""


@dataclass(frozen=True)
class WireFile:
    """One file of wire rows. Local JSON files are read here; all others through `tsa.data.log.sources`."""

    layout: FieldLayout
    path: str
    source: Source | None
    need_label: bool

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[RowBlock]:
        """All rows, `rows` at a time.

        Raises:
            DataError: If the file cannot be read or lacks a column.
        """
        try:
            yield from self._json_blocks(rows) if self.source is None else self._table_blocks(self.source, rows)
        except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
            # Polars quotes the values at the position where it stops
            kind = "json" if self.source is None else self.source.kind
            raise why_unreadable(self.path, kind, error, is_pseudonymized=self._pseudonymized) from None

    def _json_blocks(self, rows: int) -> Iterator[RowBlock]:
        objects, spelling = _json_rows(self.path), OwnTexts(self.layout)
        while block := list(islice(objects, rows)):
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
        """A column as texts. In a table an empty field is an empty text. Elsewhere null means that the field is absent,
        unless null is a value in this market.
        """
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
        return text.fill_null(JSON_NULL) if name in spelling.of_null else text

    @property
    def _pseudonymized(self) -> bool:
        """Whether some values must not appear in messages because they are pseudonymised."""
        privacy = self.layout.market.privacy
        return privacy is not None and bool(privacy.pseudonymise)

    @property
    def _has_quotes(self) -> bool:
        return self.source is not None and self.source.kind == "csv"

    @property
    def _history_fields(self) -> frozenset[str]:
        return frozenset(self.layout.history_fields)

    def _checked(self, block: pl.DataFrame) -> RowBlock:
        problems = RowErrors()
        extra = block[EXTRA].is_not_null()
        longer = zip(extra.arg_true().to_list(), block[EXTRA].filter(extra).to_list(), strict=True)
        broken = [("extra_field", row, "row", value) for row, value in longer]
        for name in _broken_lines(block.drop(EXTRA)) if self._has_quotes else ():
            rows = block[name].str.contains("\n", literal=True).fill_null(False).arg_true().to_list()
            broken += [("line_break", row, name, block[name][row]) for row in rows]
        for rule, row, name, value in broken:
            problems.note(rule, [(row, name, "" if self._pseudonymized else value)])
        if broken and self._pseudonymized:  # in such a row a value to pseudonymise may be in any field
            is_valid = pl.int_range(pl.len()).is_in([row for _, row, _, _ in broken]).not_()
            block = block.with_columns(pl.when(is_valid).then(pl.exclude(EXTRA)).otherwise(pl.lit("")).name.keep())
        gaps = block.select(*self.layout.history_fields, *self.layout.current).null_count().row(0, named=True)
        for name in [name for name, count in gaps.items() if count]:
            problems.note("missing_field", ((row, name, "") for row in block[name].is_null().arg_true().to_list()))
        histories = block.select(pl.col(self.layout.history_fields).fill_null("")).rows()
        own_fields = [name for name in block.columns if name not in self._history_fields and name != EXTRA]
        return RowBlock(block.select(own_fields), histories, problems)

    def _names(self, source: Source) -> dict[str, str]:
        """Column name in the market -> column name in the file."""
        known: dict[str, str] = {}
        for raw in source.schema:
            other = known.setdefault(raw.replace(DOT, "."), raw)
            if other != raw:
                raise DataError(
                    f"{self.path}: a column must occur once (got {raw!r} and {other!r}); remove or rename one"
                )
        layout = self.layout
        needed = {*layout.current, *layout.history_fields, *needed_columns(layout.market, need_label=self.need_label)}
        needed -= {layout.market.event.id}
        names = (*layout.current, *layout.others, *layout.history_fields)
        candidates = [name for name in known if name not in names and not name.startswith("__")]
        findings = [
            f"{name}: missing{suggest(name, candidates, UNUSED)}"
            for name in names
            if name in needed and name not in known
        ]
        history_types = {name: source.schema[known[name]] for name in layout.history_fields if name in known}
        findings += [
            f"{name}: must be a text (got {kind})" for name, kind in history_types.items() if kind != pl.String
        ]
        if findings:
            lines = first_findings(findings, [source.schema])
            raise DataError("\n  ".join([f"{self.path}: columns do not fit the market {layout.market.name!r}", *lines]))
        return {name: known[name] for name in names if name in known}


def _broken_lines(block: pl.DataFrame) -> list[str]:
    """Names of the columns in which a text spans several lines."""
    broken = block.select(pl.all().str.contains("\n", literal=True).any())
    return [name for name, is_broken in (broken.row(0, named=True) if len(block) else {}).items() if is_broken]


def open_files(market: Market, logs: Sequence[str], *, need_label: bool) -> list[WireFile]:
    """The files of wire rows, in order.

    Raises:
        DataError: If a file is missing or its format is unknown.
    """
    layout, files = FieldLayout(market), []
    for path, kind in find_files(logs):
        local_json = kind == "json" and "://" not in path
        source = None if local_json else open_sources([path], [])[0]
        if source is not None:
            say_guesses([source])
        files.append(WireFile(layout, path, source, need_label))
    return files


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    """The objects in JSON lines, in one JSON array, or a single object."""
    with io.BufferedReader(pa.input_stream(path), 2**20) as stream:
        first = stream.readline()
        if _is_single_value(path, first):
            yield from _objects(path, loads(first + stream.read(), path))
            return
        for number, line in enumerate(chain([first], stream), 1):
            if line.strip():
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise DataError(f"{path}: line {number} is not JSON: {why_not_json(line, error)}") from None
                if not isinstance(row, dict):
                    raise DataError(f"{path}: line {number} must hold a JSON object (got {type(row).__name__})")
                yield row


def _is_single_value(path: str, first: bytes) -> bool:
    """Whether the file is one JSON value: an array, or an object of a `.json` file that spans several lines."""
    if first.lstrip()[:1] == b"[":
        return True
    try:
        return not isinstance(orjson.loads(first), dict)
    except orjson.JSONDecodeError:
        return ".json" in Path(path).suffixes


def loads(text: bytes | str, what: str) -> Any:
    """Parse a JSON value. `what` names it in the DataError raised for anything else."""
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
    """A block of rows given as JSON objects."""
    problems = RowErrors()
    names = layout.current + layout.others
    histories = history_texts(layout, rows, problems)
    own = current_texts(layout, spelling, rows, problems)
    values = [[spelling.of(name, row.get(name), present=False) for row in rows] for name in layout.others]
    values = [*map(list, zip(*own, strict=True)), *values]
    frame = pl.DataFrame([pl.Series(name, column, pl.String) for name, column in zip(names, values, strict=True)])
    return RowBlock(frame, histories, problems)


def history_texts(layout: FieldLayout, rows: Sequence[Mapping[str, Any]], problems: RowErrors) -> list[tuple[str, ...]]:
    """The history fields of each row. An absent or non-text field counts as empty and is noted."""
    names, histories = layout.history_fields, []
    get = itemgetter(*names)
    for at, row in enumerate(rows):
        try:
            values = get(row)
        except KeyError:
            values = tuple(map(row.get, names))
        if set(map(type, values)) != TEXT:
            values = _only_texts(layout, at, row, values, problems)
        histories.append(values)
    return histories


def _only_texts(
    layout: FieldLayout, at: int, row: Mapping[str, Any], values: tuple[Any, ...], problems: RowErrors
) -> tuple[str, ...]:
    """The history fields of a row; non-text values are noted. In an empty history the legacy system does not check the
    other fields.
    """
    for history in layout.histories:
        deciding = history.batches or (history.parts[0].id,)
        texts = [values[place] for place in deciding]
        unchecked = layout.wire.legacy and all(isinstance(text, str) for text in texts)
        unchecked = unchecked and any(text in layout.wire.missing for text in texts)
        for place in range(history.fields.start, history.fields.stop):
            name, value = layout.history_fields[place], values[place]
            if not isinstance(value, str) and not (unchecked and name in row):
                problems.note(*_problem(at, name, value))
    return tuple(value if isinstance(value, str) else "" for value in values)


def current_texts(
    layout: FieldLayout, spelling: OwnTexts, rows: Sequence[Mapping[str, Any]], problems: RowErrors
) -> list[tuple[str, ...]]:
    """The payment's own fields of each row as texts. An absent field, or one that cannot be a text, is noted."""
    names, all_texts = layout.current, []
    get = itemgetter(*names)
    for at, row in enumerate(rows):
        try:
            values = get(row)
        except KeyError:
            values = tuple(map(row.get, names))
        if set(map(type, values)) != TEXT:
            texts = [spelling.of(n, v, present=n in row) for n, v in zip(names, values, strict=True)]
            for name, value, text in zip(names, values, texts, strict=True):
                if text is None:
                    problems.note(*_problem(at, name, value))
            values = tuple(text or "" for text in texts)
        all_texts.append(values)
    return all_texts


def _problem(row: int, name: str, value: Any) -> tuple[str, list[tuple[int, str, str]]]:
    """The error shows only the type of the value, since the value itself may have to be pseudonymised."""
    rule, kind = ("missing_field", "") if value is None else ("not_a_text", f"a {type(value).__name__}")
    return rule, [(row, name, kind)]
