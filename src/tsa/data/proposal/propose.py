"""Propose a market file for a log: guesses with their evidence as comments, checked against the log itself."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from tsa.config.market import Market
from tsa.config.split import SPLITS, Split
from tsa.data.clean_columns import LABEL, TIME
from tsa.data.log.quarantine import Quarantine
from tsa.data.log.reader import read_log
from tsa.data.log.sources import open_sources
from tsa.data.proposal.guesses import (
    DAYS,
    Ask,
    Guess,
    Proposal,
    events_without_outcome,
    features,
    guess_accounts,
    guess_amount,
    guess_id,
    guess_keys,
    guess_known_at,
    guess_label,
    guess_time,
)
from tsa.data.proposal.known_columns import GIVEN, NOTHING_GIVEN, Given
from tsa.data.proposal.market_text import lines_of, toml_value
from tsa.data.proposal.profile import EARLIEST, TIME_NAME, LogSample, read_sample
from tsa.data.store.splits import find_splits
from tsa.errors import DataError
from tsa.text import brief
from tsa.times import DAY_SECONDS

SPLIT_OPTIONS = (
    {"fractions": [0.7, 0.1, 0.1, 0.1]},
    {"fractions": [0.7, 0.1, 0.1, 0.1], "by": "rows"},
    {"fractions": [0.55, 0.15, 0.15, 0.15], "by": "rows"},
    {"fractions": [0.4, 0.2, 0.2, 0.2], "by": "rows"},
)
"""Tried in turn, until each range has frauds."""
MIN_FRAUDS = 10
"""Each range should have so many."""
SPANS = 10
"""The delay of outcomes is at most this part of the time span of the log."""
JOINED_TIME, JOINED_ID = "payment_time", "payment_id"


@dataclass(frozen=True, kw_only=True)
class ProposedMarket:
    """A market for a log, as the tables of its file, with the guesses that led to it."""

    table: Mapping[str, Any]
    guesses: Proposal
    split_evidence: str

    @property
    def text(self) -> str:
        """The market file, with the evidence in comments."""
        return "\n".join(lines_of(self.table, self.guesses, self.split_evidence)) + "\n"


def propose(logs: Sequence[str], ask: Ask, name: str = "my_market", given: Given = NOTHING_GIVEN) -> ProposedMarket:
    """Propose a market for a log.

    Args:
        ask: Chooses where two guesses are likely.
        name: The name of the market.
        given: Columns that are not guessed.

    Raises:
        DataError: If the log cannot be read, or has no column of times or of outcomes.
    """
    guesses = _guesses(given.checked(read_sample(logs)), logs, ask, given)
    split, evidence = _split({"name": name, **_tables(guesses)}, guesses, logs)
    table = {"name": name, **_tables(guesses), "split": split}
    return ProposedMarket(table=table, guesses=guesses, split_evidence=evidence)


def _no_time(sample: LogSample) -> str:
    """What is wrong with the times of a log that has none: shows how those are written that a name promises."""
    how = "write times as 2025-01-31 12:00:00, or as seconds since 1970"
    for one in sample.columns.values():
        if one.is_called(TIME_NAME) and one.values:
            return f"log: times of {one.name} must be in a form that can be read (got {one.values[0]!r}): {how}"
    return f"log: must have a column of times (got {', '.join(sample.columns)}): {how}"


def _guesses(sample: LogSample, logs: Sequence[str], ask: Ask, given: Given) -> Proposal:
    others = _without(sample, given.columns)
    time, parts = guess_time(others, ask) if given.time is None else (Guess(given.time, GIVEN), None)
    if time is None and parts is None:
        raise DataError(_no_time(sample))
    label, fraud, genuine = given.label_guess(sample) or guess_label(others, ask)
    if label is None:
        rule = "must have a column with the outcome: two values, yes and no, or a name such as fraud"
        raise DataError(
            f"log: {rule} (got {', '.join(sample.columns)}): name it, with --label or label=, and give payments with both outcomes"
        )
    used = {label.column, *(parts or ()), *([] if time is None else [time.column])}
    used |= set(given.columns) - {given.amount}  # it is a feature as well
    known_at = None if time is None else guess_known_at(_without(sample, used - {time.column}), time, label)
    used |= set() if known_at is None else {known_at.column}
    id_, id_parts = _id(sample, used, logs, ask, given)
    used |= {id_.column}
    amount = guess_amount(sample, used, ask) if given.amount is None else Guess(given.amount, GIVEN)
    keys = list(given.key_guesses()) or guess_keys(sample, used)
    if not keys:
        rule = "must have a column whose values repeat, such as a customer or an account"
        raise DataError(f"log: {rule} (got {', '.join(sample.columns)}): name it, with --key or keys=")
    made = Proposal(time=time, time_parts=parts, id=id_, id_parts=id_parts, label=label, known_at=known_at)
    made.fraud_value, made.genuine_value, made.amount, made.keys = fraud, genuine, amount, keys
    made.accounts = guess_accounts(sample, keys, ask)
    has_comma = any(one.has_comma for one in sample.columns.values())
    made.written = {**sample.written, **({"decimal": ","} if has_comma else {})}
    for column, without, values in events_without_outcome(sample, label, used):
        rule = f"events whose {column} is {without} never have an outcome. If they are no payments, write"
        made.hints.append(f"{rule} scored = {{ column = {toml_value(column)}, values = [{values}] }}")
    _add_times(made, sample)
    _add_features(made, sample, used | {key.column for key in keys}, label)
    return made


def _id(
    sample: LogSample, used: set[str], logs: Sequence[str], ask: Ask, given: Given
) -> tuple[Guess, tuple[str, str] | None]:
    if given.id is None:
        return guess_id(sample, used, ask, lambda names: _is_unique(logs, names))
    if not _is_unique(logs, [given.id]):
        raise DataError(
            f"the id {brief(given.id)} must be different in every row, and not missing: "
            "remove repeated rows, or leave the id out to number them"
        )
    return Guess(given.id, GIVEN), None


def _without(sample: LogSample, names: Collection[str]) -> LogSample:
    """The sample without columns that have another use."""
    return replace(sample, columns={name: one for name, one in sample.columns.items() if name not in names})


def _add_times(made: Proposal, sample: LogSample) -> None:
    """The unit of times, whether they have hours, and their limits."""
    one = sample.columns[made.time.column if made.time is not None else (made.time_parts or ("",))[0]]
    made.time_unit = one.unit
    made.has_hours = made.time_parts is not None or not one.is_date
    if one.low < EARLIEST:
        made.earliest = f"{max(1, datetime.fromtimestamp(one.low, UTC).year - 1)}-01-01"


def _add_features(made: Proposal, sample: LogSample, used: set[str], label: Guess) -> None:
    for kind, guess, transform in features(sample, used, label):
        if kind == "categorical":
            made.categorical.append(guess)
        elif kind == "numerical":
            made.numerical.append((guess, transform))
        else:
            made.left_out.append(guess)


def _is_unique(logs: Sequence[str], names: Sequence[str]) -> bool:
    """Whether these columns together are different in every row of the log."""
    sources = open_sources(logs, names)  # they keep copies of files in other encodings
    frames = [source.scan(list(names)).select(pl.col(list(names)).cast(pl.String)) for source in sources]
    rows = pl.concat(frames).select(pl.concat_str(names, separator="\x1f").alias("id"))
    counts = rows.select(
        pl.len().alias("rows"), pl.col("id").n_unique().alias("distinct"), pl.col("id").null_count().alias("null")
    )
    n, distinct, null = counts.collect(engine="streaming").row(0)
    return bool(n == distinct and null == 0)


def _tables(made: Proposal) -> dict[str, Any]:
    """The tables of the market file, without the split."""
    event: dict[str, Any] = {"id": JOINED_ID if made.id_parts else made.id.column}
    event["time"] = made.time.column if made.time is not None else JOINED_TIME
    event |= {"time_unit": made.time_unit} if made.time_unit is not None else {}
    event |= {"amount": made.amount.column} if made.amount is not None else {}
    event |= {"earliest": made.earliest} if made.earliest is not None else {}
    label: dict[str, Any] = {"column": made.label.column}
    label |= {"delay_days": made.delay_days} if made.known_at is None else {"known_at": made.known_at.column}
    if made.fraud_value is not None:
        label |= {"fraud": [made.fraud_value], "genuine": [made.genuine_value]}
    joined = [{"name": JOINED_TIME, "columns": list(made.time_parts)}] if made.time_parts else []
    joined += [{"name": JOINED_ID, "columns": list(made.id_parts), "separator": "/"}] if made.id_parts else []
    reading = {**made.written, **({"joined": joined} if joined else {})}
    return {
        "event": event,
        **({"input": reading} if reading else {}),
        "label": {**label, "as_feature": True},
        "history": list(_histories(made)),
        "features": {
            "calendar": ["hour_of_day", "day_of_week"] if made.has_hours else ["day_of_week"],
            "categorical": [guess.column for guess in made.categorical],
            "numerical": [{"name": guess.column, "transform": transform} for guess, transform in made.numerical],
        },
    }


def _histories(made: Proposal) -> Iterator[dict[str, Any]]:
    taken: set[str] = set()
    both = () if made.accounts is None else made.accounts[:2]
    if both:
        taken.add("account")
        yield {"name": "account", "keys": list(both), "length": 51}
    for key in made.keys:
        if key.column not in both:
            yield {"name": _history_name(key.column, taken), "key": key.column, "length": 51}


def _history_name(column: str, taken: set[str]) -> str:
    """A name in letters that a market allows: ä is a, and what has no such letter is left out."""
    plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"\W+", "_", re.sub(r"_?(?:id|no|number)$", "", plain)).strip("_") or "key"
    name = name if name[0].isalpha() else f"key_{name}"
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _split(table: Mapping[str, Any], made: Proposal, logs: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The first of `SPLIT_OPTIONS` with enough frauds in each range, with the counts and the rows that break a rule.

    Sets the delay of outcomes, by the length of the log.
    """
    market = Market.from_dict({**table, "split": SPLIT_OPTIONS[0]})
    with tempfile.TemporaryDirectory(prefix="tsa-init-") as name:
        folder = Path(name)
        clean = read_log(
            market, logs, folder / "rows.parquet", quarantine=Quarantine(folder / "bad.parquet", limit=1.0)
        )
        rows = pl.scan_parquet(clean.path)
        times, label = (rows.select(column).collect().to_series().to_numpy() for column in (TIME, LABEL))
    made.delay_days = round(min(DAYS, (times[-1] - times[0]) / DAY_SECONDS / SPANS), 1)
    delayed = market.label if market.label.known_at else market.label.model_copy(update={"delay_days": made.delay_days})
    broken = ", ".join(f"{rule} {count:,}" for rule, count in clean.report["by_rule"].items())
    invalid = f"rows that break a rule: {broken}; give --quarantine to leave them out\n" if broken else ""
    best: tuple[int, dict[str, Any], str] = (
        0,
        dict(SPLIT_OPTIONS[0]),
        "not every range has frauds: a longer log may help",
    )
    for option in SPLIT_OPTIONS:
        changed = market.model_copy(update={"label": delayed, "split": Split.model_validate(option)})
        try:
            splits = find_splits(changed, times)
        except DataError:
            continue
        frauds = {name: int((label[slice(*splits[name]["rows"])] == 1).sum()) for name in SPLITS}
        rows_of = {name: splits[name]["rows"][1] - splits[name]["rows"][0] for name in SPLITS}
        counts = ", ".join(f"{name} {rows_of[name]:,} ({frauds[name]:,})" for name in SPLITS)
        if (enough := min(MIN_FRAUDS, *frauds.values())) > best[0]:
            best = enough, dict(option), f"payments (frauds): {counts}"
    return best[1], invalid + best[2]
