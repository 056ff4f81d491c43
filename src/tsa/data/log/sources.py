"""Open the files of a log and scan them lazily. Start with `open_sources`.

Text formats (CSV, TSV, JSON lines) are scanned as text: a type guessed from the first rows may fail later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import polars as pl

from tsa.config.input import Input
from tsa.data.log.file_heads import (
    GUESSES,
    MAGIC,
    decimal_of_rows,
    first_line,
    guessed_of_header,
    names_of,
    quote_of_header,
    refuse_other_kinds,
    separator_of_header,
)
from tsa.data.log.id_and_joined_columns import NOTHING, MadeColumns
from tsa.data.log.json_lines import check_json, fields_of, marks_of
from tsa.data.log.paths import find_files, folder_names, folder_value, short_names
from tsa.data.log.read_errors import why_unreadable
from tsa.data.log.text_tables import EXTRA, check_lines, has_literal_quotes_in, scan_table
from tsa.data.utf8_copy import in_utf8
from tsa.data.workers import HERE, Workers
from tsa.errors import ClusterError, DataError

__all__ = ["EXTRA", "Source", "guesses_of", "open_sources", "say_guesses", "table_source"]

logger = logging.getLogger(__name__)

AT = "__at"
PATH = "__path"
TABLE = "table"
"""The kind of a source whose rows are in memory."""
DECIMAL_ROWS = 1000
"""Rows of each file that show how decimals are written."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of one kind with the same columns. `schema` is name -> type, as scanned."""

    kind: str
    paths: tuple[str, ...]
    schema: dict[str, pl.DataType]
    separator: str = ","
    """Of a table."""
    quote: str = '"'
    """Of a table: what may enclose a field; empty for nothing."""
    has_literal_quotes: bool = False
    """Tab-separated tables: whether quotes are ordinary characters, since not all of them enclose complete fields."""
    made: MadeColumns = NOTHING
    """Columns that are made when the files are read."""
    made_schema: Mapping[str, pl.DataType] = field(default_factory=dict)
    """Those of `schema` that are made."""
    short_name: str = "row"
    """What the file is called in ids that are made."""
    copy: Any = field(default=None, compare=False, repr=False)
    """Keeps a copy of the file in UTF-8, if it is in another encoding, until the source is no longer used."""
    shown_paths: tuple[str, ...] = ()
    """The paths as given, where the files are copies."""
    guessed: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Options of `[input]` that were guessed from the first rows, where they are not what the file's name says."""
    blank_lines: bool = False
    """Tables: whether there are blank lines. They are not rows."""
    passthrough: tuple[str, ...] = ()
    """Columns outside the market that are copied to the clean table unchanged."""
    exact_texts: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Of JSON lines: by column and row the spelling of a number, where Polars has another one."""
    marks: Mapping[str, pl.Series] = field(default_factory=dict)
    """Of JSON lines: columns to add, true in these rows (`repeated_mark`, `text_mark`)."""
    folder_columns: tuple[str, ...] = ()
    """Columns whose values are in the names of folders, as in `month=01/`: also in `schema`."""
    precomputed_rules: Mapping[str, str] = field(default_factory=dict)
    """Rules that were checked before, with their texts: see `tsa.data.log.validation.precomputed_rules`."""
    table: pl.DataFrame | None = field(default=None, compare=False, repr=False)
    """The rows, if they are in memory: then no files are read."""

    is_pseudonymized = False
    """Whether messages must not quote the contents of the files."""

    @property
    def has_decimal_comma(self) -> bool:
        """Whether numbers in texts have a comma before the decimals, by the first rows."""
        return self.guessed.get("decimal") == ","

    @property
    def is_text(self) -> bool:
        """True for formats without types: all columns are scanned as text."""
        return self.kind not in ("parquet", TABLE)

    def scan(self, columns: Sequence[str], *, file: str | None = None) -> pl.LazyFrame:
        """The rows in file order, with those of these columns that the files have. file: name for a column with the path."""
        present = [name for name in (*columns, *self.passthrough, EXTRA) if name in self.schema]
        in_files = {
            name: kind
            for name, kind in self.schema.items()
            if name not in self.folder_columns and name not in self.made_schema
        }
        needed = self.made.parts(present)
        if self.table is not None:
            frame = self._with_made(self.table.lazy(), present)
            return frame.select(*present, *([] if file is None else [pl.lit(None, pl.String).alias(file)]))
        wanted = {name: in_files[name] for name in needed if name in in_files} if self.kind == "json" else in_files
        from_folders = [name for name in self.folder_columns if name in needed]
        path = PATH if file is None and from_folders else file
        frame = _scan(self, wanted, path)
        if self.blank_lines:
            frame = frame.filter(pl.any_horizontal(pl.col(list(wanted)).str.strip_chars() != ""))
        if path is not None and from_folders:
            frame = frame.with_columns(folder_value(pl.col(path), name).alias(name) for name in from_folders)
        if self.exact_texts or self.marks:
            frame = self._with_findings(frame.with_row_index(AT), needed)
        frame = self._with_made(frame, present)
        if file is not None and self.shown_paths:
            frame = frame.with_columns(pl.lit(self.shown_paths[0]).alias(file))
        return frame.select(*present, *self.marks, *([] if file is None else [file]))

    def by_file(self) -> list[Source]:
        """Each of the files alone, by its absolute path."""
        return [
            replace(
                self, paths=(path if "://" in path else os.path.abspath(path),), shown_paths=self.shown_paths or (path,)
            )
            for path in self.paths
        ]

    def _with_made(self, frame: pl.LazyFrame, present: Sequence[str]) -> pl.LazyFrame:
        names = [name for name in present if name in self.made_schema]
        return self.made.add(frame, names, self.schema, self.short_name) if names else frame

    def _with_findings(self, frame: pl.LazyFrame, present: Sequence[str]) -> pl.LazyFrame:
        """The rows with the spellings and marks of `JsonFindings`, by their number."""
        spelled = [
            pl.coalesce(pl.col(AT).replace_strict(texts, default=None, return_dtype=pl.String), name).alias(name)
            for name, texts in self.exact_texts.items()
            if name in present
        ]
        return frame.with_columns(
            *spelled, *(pl.col(AT).is_in(rows.implode()).alias(name) for name, rows in self.marks.items())
        )


def table_source(table: pl.DataFrame, columns: Sequence[str], made: MadeColumns = NOTHING) -> Source:
    """A table in memory as a source, like a Parquet file. `columns`, `made`: as for `open_sources`.

    Raises:
        DataError: If the table is not a log.
    """
    source = _with_made(Source(kind=TABLE, paths=("the table",), schema=dict(table.schema), table=table), made, "row")
    _refuse_own(source, columns, single=True)
    return source


def open_sources(
    logs: Sequence[str],
    columns: Sequence[str],
    keys: Sequence[str] = (),
    *,
    reading: Input | None = None,
    made: MadeColumns = NOTHING,
    numbers: Sequence[str] = (),
    workers: Workers = HERE,
) -> list[Source]:
    """All files of the logs, grouped into few sources, in order.

    Args:
        columns: Columns to read.
        keys: Those of the columns in which every digit matters.
        reading: How tables are written; None: detected in their first lines.
        made: Columns that are made when the files are read.
        numbers: Columns of numbers: their first rows show whether there is a decimal comma.
        workers: Open the files, if each file is a part.

    Raises:
        DataError: With file and line, if a file is missing, empty, truncated, or of another format than its name
            says.
    """
    files = find_files(logs)
    names = short_names([path for path, _ in files])
    columns, keys, reading = made.parts(columns), made.parts(keys), reading or Input()
    given = columns, keys, reading
    places = [(path, path if "://" in path else os.path.abspath(path), kind) for path, kind in files]
    away = workers.call(_opened_away, given, places) if workers.by_file else iter([None] * len(files))
    opened = [
        _with_made(_with_folders(source or _opened(path, kind, *given), columns), made, name)
        for source, (path, kind), name in zip(away, files, names, strict=True)
    ]
    for source in opened:
        _refuse_own(source, columns, single=len(files) == 1)
    if reading.decimal is None:
        opened = _with_decimals(opened, numbers)
    joined: list[Source] = []
    for _, group in groupby(opened, key=_group_key):
        sources = list(group)
        joined.append(replace(sources[0], paths=tuple(path for source in sources for path in source.paths)))
    return joined


def _with_made(source: Source, made: MadeColumns, short_name: str) -> Source:
    if not (extra := made.schema(source.schema)):
        return source
    return replace(source, schema={**source.schema, **extra}, made=made, made_schema=extra, short_name=short_name)


def _with_decimals(sources: Sequence[Source], numbers: Sequence[str]) -> list[Source]:
    """The sources, of which those with decimal commas say so. A table whose numbers show nothing is read as the others."""
    decimals = [_decimal(source, numbers) for source in sources]
    others = "," if "," in decimals and "." not in decimals else None
    return [
        replace(source, guessed={**source.guessed, "decimal": ","})
        if (decimal or (others if source.is_text else None)) == ","
        else source
        for source, decimal in zip(sources, decimals, strict=True)
    ]


def _decimal(source: Source, numbers: Sequence[str]) -> str | None:
    """How the first rows of a source write decimals in texts, if they do."""
    texts = [name for name in numbers if isinstance(source.schema.get(name), pl.String)]
    if not texts:
        return None
    try:
        return decimal_of_rows(source.scan(texts).select(texts).head(DECIMAL_ROWS).collect())
    except pl.exceptions.PolarsError:
        return None  # the error is reported when the rows are read


def _group_key(source: Source) -> tuple[Any, ...]:
    """Files for which this is equal are scanned together."""
    alone = source.exact_texts or source.marks or source.copy is not None or (source.made_schema and source.made.row_id)
    own = source.paths if alone else ()
    table = source.separator, source.quote, source.has_literal_quotes, source.blank_lines
    guessed = tuple(source.guessed.items())
    return source.kind, table, tuple(source.schema.items()), source.folder_columns, guessed, own


def _refuse_own(source: Source, columns: Sequence[str], *, single: bool) -> None:
    """DataError for files that this program wrote next to a log: scores and quarantined rows."""
    scores = "raw_score" in source.schema and not set(columns) <= set(source.schema)
    if scores or ("__reason" in source.schema and not single):
        what = "scores that this program wrote" if scores else "rows from a --quarantine file"
        raise DataError(f"{source.paths[0]}: holds {what}, not payments; leave it out of the log or move it")


def _opened(path: str, kind: str, columns: Sequence[str], keys: Sequence[str], reading: Input) -> Source:
    shown = path
    try:
        copy = None
        if kind != "parquet" and (kind != "json" or reading.encoding is not None):  # JSON is UTF-8 by its standard
            path, copy = in_utf8(path, reading.encoding, list(MAGIC))
        refuse_other_kinds(path, kind)
        if kind == "parquet":
            return Source(
                kind=kind, paths=(path,), schema=dict(pl.scan_parquet(path, glob="://" in path).collect_schema())
            )
        if kind == "json":
            names = fields_of(path, columns)
            findings = check_json(path, columns, keys)
            schema: dict[str, pl.DataType] = dict.fromkeys(names, pl.String())
            source = Source(
                kind=kind, paths=(path,), schema=schema, exact_texts=findings.exact_texts, marks=marks_of(findings)
            )
        else:
            source = _table(path, kind, reading)
        if copy is None:
            return source
        guessed = {"encoding": copy.encoding} if reading.encoding is None else {}
        return replace(source, copy=copy.folder, shown_paths=(shown,), guessed={**guessed, **source.guessed})
    except (pl.exceptions.PolarsError, OSError) as error:
        raise why_unreadable(path, kind, error) from error
    except DataError as error:
        raise DataError(str(error).replace(path, shown)) from None


def _opened_away(given: tuple[Sequence[str], Sequence[str], Input], file: tuple[str, str, str]) -> Source | None:
    """A file that a worker opens. None if it is in another encoding: its copy must be where the others are."""
    path, where, kind = file
    if "://" not in path and not os.path.exists(where):
        raise ClusterError(
            f"each node of the cluster must see the log (got no {where}): use a folder that all nodes share"
        )
    try:
        source = _opened(where, kind, *given)
    except DataError as error:
        raise DataError(str(error).replace(where, path)) from None
    return None if source.copy is not None else replace(source, paths=(path,))


def _with_folders(source: Source, columns: Sequence[str]) -> Source:
    """The source with those of the columns that its file lacks and its folders name."""
    names = folder_names(source.paths[0])
    wanted = tuple(name for name in columns if name in names and name not in source.schema)
    schema = {**source.schema, **dict.fromkeys(wanted, pl.String())}
    return replace(source, schema=schema, folder_columns=wanted) if wanted else source


def _table(path: str, kind: str, reading: Input) -> Source:
    header = first_line(path)
    mark = reading.separator or separator_of_header(header, kind)
    tabs = mark == "\t"
    quote = quote_of_header(header, mark) if reading.quote is None else reading.quote
    names = names_of(header, mark, quote, path)
    quoted = quote if reading.quote is not None or not tabs else ""
    return Source(
        kind="tsv" if tabs else "csv",
        paths=(path,),
        schema=dict.fromkeys([*names, EXTRA], pl.String()),
        separator=mark,
        quote=quote,
        guessed=guessed_of_header(kind, mark, quote, reading),
        has_literal_quotes=tabs and reading.quote is None and has_literal_quotes_in(path, mark),
        blank_lines=check_lines(path, mark, len(names), quote=quoted),
    )


def guesses_of(sources: Sequence[Source]) -> list[str]:
    """What was guessed of the files of a log, a sentence for each guess."""
    files: dict[str, list[str]] = {}
    for source in sources:
        if source.guessed:
            guess = " and ".join(GUESSES[option].format(repr(value)) for option, value in source.guessed.items())
            files.setdefault(guess, []).extend(source.shown_paths or source.paths)
    sentences = []
    for guess, paths in files.items():
        more = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
        sentences.append(f"{paths[0]}{more}: by the first rows, {guess}; if that is wrong, set it in [input]")
    return sentences


def say_guesses(sources: Sequence[Source]) -> None:
    """Warn of each guess."""
    for sentence in guesses_of(sources):
        logger.warning("%s", sentence)


def _scan(source: Source, schema: Mapping[str, pl.DataType], file: str | None = None) -> pl.LazyFrame:
    paths = list(source.paths)
    globs = "://" in paths[0]  # local ones are resolved already
    if source.kind == "parquet":
        return pl.scan_parquet(paths, glob=globs, extra_columns="ignore", include_file_paths=file)
    if source.kind == "json":
        return pl.scan_ndjson(paths, schema=dict(schema), include_file_paths=file)
    return scan_table(
        paths, schema, source.separator, source.quote, has_literal_quotes=source.has_literal_quotes, file=file
    )
