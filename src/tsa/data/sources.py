"""Where a log comes from: files, folders, globs and object-store URLs, scanned lazily.

It knows formats and how to find files. It does not know what a column means. Columns of text formats (CSV, TSV, JSON
lines) are all scanned as text: guessing types from the first rows breaks on the ten millionth.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from tsa.data.lines import has_lone_quotes, kind_of_header, refuse_short
from tsa.errors import DataError

KINDS = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "jsonl": "json",
    "ndjson": "json",
    "json": "json",
}
COMPRESSED = ("gz", "zst")
SEPARATORS = {"csv": ",", "tsv": "\t"}
JSON_PEEK_ROWS = 1000
EXTRA = "__extra"  # in CSV: what stands in a row behind the last column of the header


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of one kind with the same columns: `schema` is name -> type, as scanned."""

    kind: str
    paths: tuple[str, ...]
    schema: dict[str, pl.DataType]
    lone_quotes: bool = False
    """Of a table separated by tabs: whether quotes are letters, since not all of them are around whole fields."""
    carried: tuple[str, ...] = ()
    """Columns that are no market's, and go along to the clean table as they are."""
    noted: Mapping[str, str] = field(default_factory=dict)
    """Rules that were checked before, and what they expect: see `tsa.data.validate.noted_rules`."""

    is_veiled = False
    """Whether nothing may be told of what stands in the files."""

    @property
    def is_text(self) -> bool:
        """True for formats without types: everything is scanned as text."""
        return self.kind != "parquet"

    def scan(self, columns: Sequence[str]) -> pl.LazyFrame:
        """These columns, those that the files lack left out, in file order."""
        present = [name for name in (*columns, *self.carried, EXTRA) if name in self.schema]
        wanted = {name: self.schema[name] for name in present} if self.kind == "json" else self.schema
        return _scan(self.kind, list(self.paths), wanted, self.lone_quotes).select(present)


def find_files(logs: Sequence[str]) -> list[tuple[str, str]]:
    """(path, kind) of each file, in the order given, those of a glob or a folder sorted. Raises DataError for none."""
    found: list[tuple[str, str]] = []
    for log in map(str, logs):
        paths = [log] if "://" in log else _local(log)
        if not paths:
            raise DataError(f"log: there is no file {log!r}")
        found.extend((path, _kind(path)) for path in paths)
    if not found:
        raise DataError("log: at least one file is needed, however: none was named")
    return list(dict.fromkeys(found))


def _local(log: str) -> list[str]:
    path = Path(log)
    if path.is_dir():
        return sorted(str(inner) for inner in path.rglob("*") if inner.is_file() and _kind_or_none(inner.name))
    return (
        [log] if path.is_file() else sorted(match for match in glob.glob(log, recursive=True) if Path(match).is_file())
    )


def _kind_or_none(path: str) -> str | None:
    parts = path.split("?")[0].lower().rsplit("/", 1)[-1].split(".")[1:]
    if len(parts) > 1 and parts[-1] in COMPRESSED:
        kind = KINDS.get(parts[-2])
        return kind if kind != "parquet" else None
    return KINDS.get(parts[-1]) if parts else None


def _kind(path: str) -> str:
    kind = _kind_or_none(path)
    if kind is None:
        ends = ", ".join(f".{end}" for end in KINDS)
        raise DataError(f"log: a file must end in one of {ends} (text also in .gz or .zst), however: {path!r}")
    return kind


def open_sources(logs: Sequence[str], columns: Sequence[str]) -> list[Source]:
    """All files of the logs as few sources, in order. Raises DataError for a file that is missing, empty or torn."""
    opened = [_opened(path, kind, columns) for path, kind in find_files(logs)]
    grouped = groupby(opened, key=lambda source: (source.kind, source.lone_quotes, tuple(source.schema.items())))
    joined = []
    for (kind, lone_quotes, schema), group in grouped:
        paths = tuple(path for source in group for path in source.paths)
        joined.append(Source(kind=kind, paths=paths, schema=dict(schema), lone_quotes=lone_quotes))
    return joined


def _opened(path: str, kind: str, columns: Sequence[str]) -> Source:
    try:
        if kind == "json":
            return Source(kind=kind, paths=(path,), schema=_json_schema(path, columns))
        if kind == "parquet":
            return Source(kind=kind, paths=(path,), schema=dict(_scan(kind, [path], {}).collect_schema()))
        kind = kind_of_header(path, kind)
        mark, tabs = SEPARATORS[kind], kind == "tsv"
        header = pl.scan_csv(
            path, separator=mark, quote_char=None if tabs else '"', infer_schema=False, glob="://" in path
        )
        names = pl.DataFrame({"name": header.collect_schema().names()}, schema={"name": pl.String})
        refuse_short(path, mark, len(names), quoted=not tabs)
        if tabs:
            names = names.select(unquoted(pl.col("name")))
        schema: dict[str, pl.DataType] = dict.fromkeys([*names["name"].to_list(), EXTRA], pl.String())
        lone = tabs and has_lone_quotes(path, mark)
        return Source(kind=kind, paths=(path,), schema=schema, lone_quotes=lone)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read as {kind}: {error}") from error


def _json_schema(path: str, columns: Sequence[str]) -> dict[str, pl.DataType]:
    """Fields of the first rows; of all rows only when a declared one is not among those (JSON may leave fields out)."""
    names = pl.scan_ndjson(path, infer_schema_length=JSON_PEEK_ROWS).collect_schema().names()
    if not set(columns) <= set(names):
        names = pl.scan_ndjson(path, infer_schema_length=None).collect_schema().names()
    return {name: pl.String() for name in names}


def _scan(kind: str, paths: list[str], schema: Mapping[str, pl.DataType], lone_quotes: bool = False) -> pl.LazyFrame:
    globs = "://" in paths[0]  # local ones are resolved already
    if kind == "parquet":
        return pl.scan_parquet(paths, glob=globs, extra_columns="ignore")
    if kind == "json":
        return pl.scan_ndjson(paths, schema=dict(schema))
    # A field too many shifts all behind it. Polars notices only when it reads every column, so ask for one more.
    lengths: dict[str, Any] = {"missing_columns": "insert", "extra_columns": "ignore"}
    if not lone_quotes:
        return pl.scan_csv(paths, separator=SEPARATORS[kind], schema=dict(schema), glob=globs, **lengths)
    # one that nothing closes would swallow what comes after it; names may be in quotes too, so columns are told by their places
    lengths |= {"has_header": False, "skip_rows": 1, "quote_char": None}
    read = pl.scan_csv(paths, separator=SEPARATORS[kind], schema=dict(schema), glob=globs, **lengths)
    return read.with_columns(unquoted(pl.exclude(EXTRA)))


def unquoted(text: pl.Expr) -> pl.Expr:
    """Texts without the quotes that some programs put around a whole field, and double inside it."""
    inner = text.str.slice(1, text.str.len_chars().cast(pl.Int64) - 2).str.replace_all('""', '"', literal=True)
    return pl.when(text.str.contains(r'(?s)^"(?:[^"]|"")*"$')).then(inner).otherwise(text).name.keep()
