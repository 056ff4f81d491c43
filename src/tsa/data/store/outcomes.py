"""Read files of outcomes that became known later: the columns of the id, the label and the time it was known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from tsa.config.market import Market
from tsa.data.clean_columns import KNOWN_AT, LABEL, TIME
from tsa.data.log import columns
from tsa.data.log.reader import pseudonymized
from tsa.data.log.row_sets import label
from tsa.data.log.rule import ALL_DIGITS, Rule, earliest, readable_time, time_text
from tsa.data.log.rules import KNOWN_EARLY, known_at_seconds
from tsa.data.log.sources import Source, open_sources, say_guesses
from tsa.data.spelling import Spelling
from tsa.data.values import label_text
from tsa.errors import DataError
from tsa.text import brief

SHOWN = 5
"""Largest number of rows that a message shows."""

RAW = "__raw"


def read_outcomes(market: Market, files: Sequence[str], id_type: pl.DataType) -> pl.DataFrame:
    """The outcomes in files whose columns are named as in the market. Rows without an outcome are left out.

    Args:
        market: Names the columns, and says how outcomes are written.
        files: Files, globs or URLs, as for a log.
        id_type: The type of the ids of the store: Int64 or String.

    Returns:
        The id; LABEL (Float64: 1, 0) and, if the market has `label.known_at`, KNOWN_AT (Float64, seconds since 1970, null
        for never). Each id once: the last row counts.

    Raises:
        DataError: For a column that is missing, or a row that breaks a rule.
    """
    names = tuple(name for name in (market.event.id, market.label.column, market.label.known_at) if name is not None)
    opened = open_sources(files, names, (market.event.id,), reading=market.reading)
    say_guesses(opened)
    market, sources = pseudonymized(market, opened)
    read = pl.concat([_read(market, source, names, id_type) for source in sources])
    known = read.filter(pl.col(LABEL).is_in([0.0, 1.0]))
    return known.unique(market.event.id, keep="last", maintain_order=True)


def _read(market: Market, source: Source, names: tuple[str, ...], id_type: pl.DataType) -> pl.DataFrame:
    schema, own, spelling = source.schema, market.label, Spelling.of(market)
    if lacking := [name for name in names if name not in schema]:
        rule = f"outcomes: a file must have the columns {', '.join(names)}"
        raise DataError(f"{rule} ({', '.join(lacking)} missing in {_file(source)})")
    id_name = market.event.id
    is_integer = id_type == pl.Int64 and columns.is_small_integer(schema[id_name])
    made = [
        columns.key(id_name, schema[id_name], spelling, integer=is_integer).alias(id_name),
        label(own.column, schema[own.column], own, spelling).alias(LABEL),
        pl.col(own.column).cast(pl.String).alias(RAW),
    ]
    if own.known_at is not None:
        made.append(
            known_at_seconds(own.known_at, schema[own.known_at], market.event.time_unit, spelling).alias(KNOWN_AT)
        )
    frame = source.scan(names)
    rules = list(_rules(market, source))
    flags = [rule.broken.fill_null(value=False).alias(rule.name) for rule in rules]
    try:
        rows = frame.select(*made, *flags).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        shown = type(error).__name__ if source.is_pseudonymized else brief(error)
        raise DataError(f"outcomes: {_file(source)} cannot be read: {shown}") from None
    _refuse(rows, rules, id_name, source)
    rows = rows.drop(RAW, *(rule.name for rule in rules))
    return rows.with_columns(pl.col(id_name).cast(id_type, strict=False)).drop_nulls(id_name)


def _rules(market: Market, source: Source) -> Iterator[Rule]:
    schema, spelling, own, id_name = source.schema, Spelling.of(market), market.label, market.event.id
    blank = columns.missing(id_name, schema[id_name], spelling)
    yield Rule(name=f"null_id:{id_name}", column=id_name, text="must not be missing", broken=blank)
    inexact = columns.inexact(id_name, schema[id_name])
    if inexact is not None and not spelling.exact:
        yield Rule(name=f"inexact:{id_name}", column=id_name, text=ALL_DIGITS, broken=inexact)
    value = label(own.column, schema[own.column], own, spelling)
    blank = columns.missing(own.column, schema[own.column], spelling)
    bad = (value.is_null() & ~blank) | ~value.is_in([0.0, 1.0, -1.0])
    yield Rule(name=f"bad_label:{own.column}", column=own.column, text=label_text(own), broken=bad)
    if own.known_at is not None:
        name, unit = own.known_at, market.event.time_unit
        seconds = known_at_seconds(name, schema[name], unit, spelling)
        unread = seconds.is_null() & ~columns.missing(name, schema[name], spelling)
        yield Rule(name=f"bad_time:{name}", column=name, text=readable_time(unit), broken=unread)
        early = seconds < earliest(market)
        yield Rule(name=f"absurd_time:{name}", column=name, text=time_text(market), broken=early)


def _refuse(rows: pl.DataFrame, rules: Sequence[Rule], id_name: str, source: Source) -> None:
    for rule in rules:
        bad = rows.filter(pl.col(rule.name))
        if len(bad):
            ids = ", ".join(brief(value, 40) for value in bad[id_name].head(SHOWN).to_list())
            first = f"{len(bad):,} of {len(rows):,} rows of {_file(source)} break it; the first ids: {ids}"
            raise DataError(f"outcomes: {rule.name}: {rule.text} ({first}); correct the file")


def _file(source: Source) -> str:
    return str((source.shown_paths or source.paths)[0])


def outcome_columns(market: Market, joined: pl.DataFrame) -> pl.DataFrame:
    """LABEL (Int8) and KNOWN_AT as a clean log has them, for outcomes joined with TIME of their payments.

    Raises:
        DataError: If an outcome is known before its payment.
    """
    if market.label.known_at is None:
        at = pl.col(TIME) + market.label.gap_seconds
    else:
        at = pl.col(KNOWN_AT)
        early = joined.filter(pl.col(KNOWN_AT) < pl.col(TIME))
        if len(early):
            ids = ", ".join(brief(value, 40) for value in early[market.event.id].head(SHOWN).to_list())
            what = f"{len(early):,} outcomes are known earlier; the first ids: {ids}"
            raise DataError(f"outcomes: {market.label.known_at} {KNOWN_EARLY} ({what})")
    return joined.with_columns(pl.col(LABEL).cast(pl.Int8), at.fill_null(float("inf")).alias(KNOWN_AT))
