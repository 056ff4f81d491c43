"""Guess what the columns of a log are for: id, time, outcome, amount, keys and features, each with its evidence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from tsa.config.tables import LABEL_TEXTS
from tsa.data.proposal.profile import TIME_NAME, ColumnProfile, LogSample
from tsa.times import DAY_SECONDS

LATER = r"known|report|settle|clos|charge_?back|resol|label|outcome|due|expir|birth|dob|open|first|regist|since|valid"
LABEL_NAME = "|".join(
    (
        *("fraud", "label", "target", "class$", "^y$", "charge_?back", "default", "distrust", "scam", "abuse"),
        *("illicit", "launder", "return", "cancel", "redeem", "outcome", "churn", "betrug", "frode"),
    )
)
ID_NAME = r"(?:^|_)(?:id|uuid|guid|no|nr|num|number|ref|line|index|row)$|trans|payment|order|event|basket"
AMOUNT_NAME = r"amount|(?:^|_)amt|value|total|price|betrag|montant|importe"
KEY_NAME = (
    r"customer|client|user|account|card|pan$|member|household|holder|terminal|merchant|shop|store|seller|device|(?:^|_)ip|mail|"
    r"phone|sender|receiver|src|dst|source|dest|orig|driver|constructor|product|pay[eo]|rate[rd]|iban|buyer|cust|"
    r"kund|karte|konto|h(?:ä|ae)ndler|carte|compte|tarjeta|cuenta"
)
MEASURES = "age|days|hours|count|balance|limit|score|ratio|share|rate|avg|mean|sum|min|max|std|velocity"
MEASURE_NAME = rf"(?:^|_)(?:{MEASURES})(?:_|$)"
CODE_NAME = r"type|code|categ|kind|class|mcc|status|group|zone|country|region|channel|brand|method"
PAIRS = (
    ("src", "dst"),
    ("source", "target"),
    ("source", "dest"),
    ("sender", "receiver"),
    ("from", "to"),
    ("orig", "dest"),
    ("payer", "payee"),
    ("rater", "rated"),
    ("rater", "ratee"),
    ("debtor", "creditor"),
)
"""Words in the names of two columns that name the accounts of one payment."""
CLOSE = 0.8
"""Two guesses are both likely if the second has at least this share of the score of the first."""
MAX_KEYS = 3
MIN_KEYS, MAX_TOP, MIN_REPEATS = 50, 0.1, 1.5
"""A key has at least so many values; none has more than this share of the rows; and they repeat so often on average."""
MAX_CATEGORIES = 1_000
DECIDES, MIN_FRAUDS = 0.97, 20
SKEWED = 20.0
"""Ratio of the 99th percentile to the median from which a number is taken on a logarithmic scale."""
DAYS = 7.0
"""Usual delay of outcomes."""


@dataclass(frozen=True)
class Guess:
    """A column for one purpose, with what speaks for it."""

    column: str
    evidence: str
    score: float = 0.0


Ask = Callable[[str, Sequence[Guess]], Guess]
"""Called with a question and the likely guesses, the best first; returns the chosen one."""


@dataclass(kw_only=True)
class Proposal:
    """What a market file will say. Each part has its evidence."""

    time: Guess | None = None
    time_unit: str | None = None
    time_parts: tuple[str, str] | None = None
    """A column of dates and one of times of day, if there is no column of times."""
    id: Guess
    id_parts: tuple[str, str] | None = None
    label: Guess
    fraud_value: str | None = None
    genuine_value: str | None = None
    known_at: Guess | None = None
    delay_days: float = DAYS
    amount: Guess | None = None
    keys: list[Guess] = field(default_factory=list)
    accounts: tuple[str, str, str] | None = None
    """Two columns that name accounts of one kind, and the evidence."""
    categorical: list[Guess] = field(default_factory=list)
    numerical: list[tuple[Guess, str]] = field(default_factory=list)
    """With the transform."""
    left_out: list[Guess] = field(default_factory=list)
    """Columns that are not used, with the reason."""
    written: Mapping[str, str] = field(default_factory=dict)
    """Options of `[input]`, where the files are not written as usual."""
    has_hours: bool = True
    """Whether times have a time of day."""
    earliest: str | None = None
    hints: list[str] = field(default_factory=list)
    """What else the log may mean."""


def guess_time(sample: LogSample, ask: Ask) -> tuple[Guess | None, tuple[str, str] | None]:
    """The column of times, or a column of dates and one of times of day."""
    options = []
    for one in sample.columns.values():
        if one.kind != "time" or one.missing > 0.05:
            continue
        score = 3.0 + 2 * one.is_called(TIME_NAME) - 3 * one.is_called(LATER) + min(1.0, one.distinct / one.rows)
        unit = f", numbers in {one.unit}" if one.unit else ""
        dates = f"{_day(one.low)} to {_day(one.high)}{unit}"
        options.append(Guess(one.name, f"{one.distinct:,} different times from {dates}", score - one.is_date))
    of_day = [one.name for one in sample.columns.values() if one.kind == "time_of_day"]
    days = [one for one in options if sample.columns[one.column].is_date]
    if of_day and days and len(days) == len(options):
        return None, (max(days, key=lambda one: one.score).column, of_day[0])
    return _chosen("Which column is the time of the payment?", options, ask), None


def guess_label(sample: LogSample, ask: Ask) -> tuple[Guess | None, str | None, str | None]:
    """The outcome; and the values for fraud and genuine, if they are not spelled as usual."""
    options = []
    for at, one in enumerate(sample.columns.values()):
        if one.distinct != 2 or one.kind in ("time", "time_of_day"):
            continue
        usual = _are_usual(one.values)
        if not usual and not one.is_called(LABEL_NAME):
            continue
        share = 1 - one.top_share
        score = 4.0 * one.is_called(LABEL_NAME) + usual + (share < 0.2) + 0.5 * (at == len(sample.columns) - 1)
        values = " and ".join(map(repr, one.values))
        evidence = f"two values, {values}; the rarer one in {share:.2%} of the rows that have one"
        options.append(Guess(one.name, evidence, score))
    best = _chosen("Which column is the outcome?", options, ask)
    return (best, None, None) if best is None else (best, *outcome_values(sample.columns[best.column].values))


def outcome_values(values: Sequence[str]) -> tuple[str | None, str | None]:
    """The values for fraud and genuine, of two with the more frequent one first; None if they are spelled as usual."""
    return (None, None) if _are_usual(values) else (values[1], values[0])


def _are_usual(values: Sequence[str]) -> bool:
    return all(value in ("0", "1") or value.lower() in LABEL_TEXTS for value in values)


def guess_known_at(sample: LogSample, time: Guess, label: Guess) -> Guess | None:
    """The column that says when an outcome is known: a time after the payment in almost all rows."""
    own = sample.seconds(time.column)
    for one in sample.columns.values():
        if one.kind != "time" or one.name in (time.column, label.column) or not one.is_called(LATER):
            continue
        other = sample.seconds(one.name)
        both = (other - own).drop_nulls()
        if len(both) and (both >= 0).all() and (both > 0).any():
            days = float(both.median() or 0.0) / DAY_SECONDS  # type: ignore[arg-type]
            return Guess(one.name, f"never before the payment, {days:.3g} days after it in the middle")
    return None


def guess_id(
    sample: LogSample, used: set[str], ask: Ask, is_unique: Callable[[Sequence[str]], bool]
) -> tuple[Guess, tuple[str, str] | None]:
    """The id, two columns that are one together, or the number of the row."""
    options = []
    for at, one in enumerate(sample.columns.values()):
        if one.name in used or one.missing or one.distinct < one.rows or one.kind not in ("number", "text"):
            continue
        if one.kind == "number" and not one.is_integer:
            continue
        options.append(Guess(one.name, "a different value in every row", 1.0 + 3 * one.is_called(ID_NAME) + (at == 0)))
    options = [one for one in sorted(options, key=lambda one: -one.score) if is_unique([one.column])]
    best = _chosen("Which column is the id of the payment?", options, ask)
    if best is not None:
        return best, None
    named = [one.name for one in sample.columns.values() if one.is_called(ID_NAME) and one.name not in used]
    for pair in itertools.combinations(named[:6], 2):
        if is_unique(pair):
            return Guess("id", f"{pair[0]} and {pair[1]} together are different in every row"), pair
    return Guess("row", "no column is different in every row: rows are numbered"), None


def guess_amount(sample: LogSample, used: set[str], ask: Ask) -> Guess | None:
    """The amount, if a number is called so."""
    options = []
    for one in sample.columns.values():
        if one.kind == "number" and one.name not in used and one.is_called(AMOUNT_NAME):
            score = 2.0 + 2 * one.is_called(r"amount|amt|betrag") + (not one.is_integer)
            options.append(Guess(one.name, f"a number, {one.median:g} in the middle", score))
    return _chosen("Which column is the amount?", options, ask)


def guess_keys(sample: LogSample, used: set[str]) -> list[Guess]:
    """Columns whose values repeat, as those of customers and shops do, the most likely first."""
    options = []
    for one in sample.columns.values():
        is_key_type = one.kind == "text" or (one.kind == "number" and one.is_integer and one.is_called(KEY_NAME))
        if one.name in used or not is_key_type or one.is_called(CODE_NAME) or one.is_called(MEASURE_NAME):
            continue
        named = one.is_called(KEY_NAME)
        if one.distinct < MIN_KEYS * (1 if named else 4) or one.repeats < MIN_REPEATS or one.top_share > MAX_TOP:
            continue
        evidence = f"{one.distinct:,} values, each in {one.repeats:.1f} rows on average"
        options.append(Guess(one.name, evidence, 3.0 * named + np.log10(one.distinct)))
    if not options:
        options = [
            Guess(one.name, f"the only kind of value that repeats: {one.distinct:,} values; is it a key?", one.distinct)
            for one in sample.columns.values()
            if one.name not in used and one.distinct > 1 and (one.kind == "text" or one.is_integer) and one.repeats > 1
        ][:1]
    return sorted(options, key=lambda one: -one.score)[:MAX_KEYS]


def guess_accounts(sample: LogSample, keys: Sequence[Guess], ask: Ask) -> tuple[str, str, str] | None:
    """Two keys that name accounts of one kind: their names say so, or their texts overlap."""
    for first, second in itertools.permutations([key.column for key in keys], 2):
        a, b = (set(sample.texts(name).drop_nulls().unique()) for name in (first, second))
        overlap = len(a & b) / max(1, min(len(a), len(b)))
        one, other = sample.columns[first], sample.columns[second]
        named = any(one.is_called(left) and other.is_called(right) for left, right in PAIRS)
        texts = one.kind == other.kind == "text" and overlap > 0.5 and first < second
        if not (named and overlap > 0.05) and not texts:
            continue
        evidence = f"{overlap:.0%} of the values of the one occur in the other"
        yes = Guess(f"{first} and {second}", f"one kind of account ({evidence})", 2.0)
        no = Guess("two keys", "they only look alike", 2.0 if texts and not named else 0.0)
        question = f"Do {first} and {second} name the same accounts?"
        if _chosen(question, [yes, no], ask) == yes:
            return first, second, evidence
    return None


def features(sample: LogSample, used: set[str], label: Guess) -> Iterator[tuple[str, Guess, str]]:
    """("categorical", "numerical" or "left out", guess, transform) of every other column."""
    outcome = _outcome(sample, label)
    for one in sample.columns.values():
        if one.name in used:
            continue
        kind, evidence, transform = _feature(one)
        if kind != "left out" and (auc := _deciding(sample, one, outcome)) >= DECIDES:
            rule = f"it nearly decides the outcome alone (ROC AUC {auc:.3f})"
            kind, evidence = "left out", f"{rule}: use it only if it is known at the time of the payment"
        yield kind, Guess(one.name, evidence), transform


def _feature(one: ColumnProfile) -> tuple[str, str, str]:
    if one.kind == "empty" or one.distinct < 2:
        return "left out", "it has no value, or only one", ""
    if one.kind in ("time", "time_of_day"):
        return "left out", "a time: [[features.derived]] can measure the time to it, if it is known by then", ""
    if one.kind == "boolean":
        return "categorical", f"true in {one.top_share if one.values[0] == 'true' else 1 - one.top_share:.0%}", ""
    is_code = one.is_text or (one.is_integer and one.is_called(CODE_NAME) and one.distinct <= MAX_CATEGORIES)
    if is_code and (one.distinct > MAX_CATEGORIES or one.repeats < 5):
        return "left out", f"{one.distinct:,} different texts, each in {one.repeats:.1f} rows on average", ""
    if is_code:
        return "categorical", f"{one.distinct:,} values, such as {', '.join(map(repr, one.values[:2]))}", ""
    if one.is_integer and (one.is_called(ID_NAME) or one.distinct >= one.present * 0.99) and one.distinct > MIN_KEYS:
        return "left out", f"a number that only names something: {one.distinct:,} values", ""
    evidence = f"{one.low:g} to {one.high:g}, {one.median:g} in the middle"
    skewed = one.high > SKEWED * max(abs(one.median), 1e-9) or one.high - one.median > SKEWED * max(
        abs(one.median), 1.0
    )
    transform = "none" if not skewed else "log1p" if one.low >= 0 else "signed_log1p"
    return "numerical", evidence, transform


def events_without_outcome(sample: LogSample, label: Guess, used: set[str]) -> Iterator[tuple[str, str, str]]:
    """(column, values without any outcome, values with outcomes) of columns that separate payments from other events."""
    known = sample.texts(label.column).is_not_null()
    for one in sample.columns.values():
        if one.name in used or not one.is_text or not 2 <= one.distinct <= 10 or one.missing:
            continue
        table = pl.DataFrame({"x": sample.texts(one.name), "known": known}).group_by("x").agg(pl.col("known").any())
        without, with_ = (sorted(table.filter(pl.col("known") == has)["x"].to_list()) for has in (False, True))
        if without and with_:
            yield one.name, ", ".join(map(repr, without)), ", ".join(f'"{value}"' for value in with_)


def _outcome(sample: LogSample, label: Guess) -> pl.Series:
    """(n,) 1 for the rarer value, 0 for the other, null for none."""
    texts = sample.texts(label.column)
    rare = sample.columns[label.column].values[-1]
    return (texts == rare).cast(pl.Float64)


def _deciding(sample: LogSample, one: ColumnProfile, outcome: pl.Series) -> float:
    known = outcome.is_not_null()
    y = outcome.filter(known).to_numpy()
    if min(y.sum(), len(y) - y.sum()) < MIN_FRAUDS:
        return 0.5
    texts = sample.texts(one.name).filter(known)
    best = _auc(y, texts.is_null().cast(pl.Float64).to_numpy())
    if one.kind == "number":
        return max(best, _auc(y, sample.numbers(one.name).filter(known).fill_null(one.low - 1.0).to_numpy()))
    table = pl.DataFrame({"x": texts, "y": y}).with_row_index("at")
    rates = table.filter(pl.col("at") % 2 == 0).group_by("x").agg(pl.col("y").mean().alias("rate"))
    tested = table.filter(pl.col("at") % 2 == 1).join(rates, on="x", how="left", nulls_equal=True)
    if tested["y"].n_unique() < 2:
        return best
    return max(best, _auc(tested["y"].to_numpy(), tested["rate"].fill_null(float(y.mean())).to_numpy()))


def _auc(y: np.ndarray, values: np.ndarray) -> float:
    auc = float(roc_auc_score(y, values))
    return max(auc, 1.0 - auc)


def _chosen(question: str, options: Sequence[Guess], ask: Ask) -> Guess | None:
    """The best option, or the one that the user chooses where two are likely."""
    ordered = sorted(options, key=lambda one: -one.score)
    if not ordered:
        return None
    likely = [one for one in ordered if one.score >= CLOSE * ordered[0].score]
    return ask(question, likely) if len(likely) > 1 else ordered[0]


def _day(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s").astype("datetime64[D]"))
