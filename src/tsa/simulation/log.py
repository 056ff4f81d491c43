"""Turn drawn payments into a log: chunks of some days in time order, with ids, labels, missing values and columns."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsa.progress import Progress, silent
from tsa.simulation import distributions
from tsa.simulation.config import SECONDS_A_DAY, SimulationConfig
from tsa.simulation.fraud import FRAUD_KINDS, special_payments
from tsa.simulation.genuine import everyday, payments_a_day
from tsa.simulation.payments import SimulatedPayments
from tsa.simulation.population import Population, populate
from tsa.simulation.writer import log_writer

log = logging.getLogger(__name__)

PIECE_ROWS = 500_000  # a chunk has complete days; it limits the memory of a simulation, whatever the length of the log
UNREPORTED = 0.02  # share of frauds that are labelled genuine
UNDECIDED = 0.002  # share of payments with a null label
_GAPS = {"terminal_id": 0.004, "merchant_category": 0.005, "device": 0.015, "country": 0.003, "account_age_days": 0.01}


def simulate(config: SimulationConfig) -> pl.DataFrame:
    """The complete log in memory, in time order; columns as in markets/demo.toml, and `fraud_kind` with `with_truth`."""
    return pl.concat(list(_pieces(config)), rechunk=True)


def write_simulation(config: SimulationConfig, out: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Write the log in chunks, in the format given by the suffix of `out`.

    The file is written under a temporary name and renamed at the end.

    Returns:
        Counts: payments, frauds and kinds (the truth), labelled_fraud, labelled_unknown, customers, terminals.

    Raises:
        ConfigError: For a suffix that `log_writer` does not support.
    """
    out = Path(out)
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    truth = config.replace(with_truth=True)
    with log_writer(out) as write, progress("simulating", config.payments) as advance:
        for piece in _pieces(truth):
            counts["payments"] += len(piece)
            counts["labelled_fraud"] += int(piece["is_fraud"].sum())
            counts["labelled_unknown"] += piece["is_fraud"].null_count()
            kinds.update(dict(piece["fraud_kind"].drop_nulls().value_counts().iter_rows()))
            write(piece if config.with_truth else piece.drop("fraud_kind"))
            advance(len(piece))
    log.info("simulated %d payments into %s", counts["payments"], out)
    people = {"customers": config.n_customers, "terminals": config.n_terminals}
    return {**counts, "frauds": kinds.total(), "kinds": {kind: kinds[kind] for kind in FRAUD_KINDS}, **people}


def _pieces(config: SimulationConfig) -> Iterator[pl.DataFrame]:
    """The log as frames of complete days, in time order."""
    people = populate(config)
    special = special_payments(config, people)
    counts = payments_a_day(config, config.payments - len(special))
    first_id, piece_of_day = 1, np.cumsum(counts) // PIECE_ROWS
    for number in np.unique(piece_of_day):
        days = np.flatnonzero(piece_of_day == number)
        usual = everyday(config, people, np.repeat(days, counts[days]), config.generator("everyday", int(number)))
        extra = special.between(days[0] * SECONDS_A_DAY, (days[-1] + 1) * SECONDS_A_DAY)
        payments = SimulatedPayments.join([usual, extra]).by_time()
        if len(payments) > 0:
            yield _frame(config, people, payments, first_id, config.generator("columns", int(number)))
        first_id += len(payments)


def _frame(
    config: SimulationConfig, people: Population, payments: SimulatedPayments, first_id: int, rng: np.random.Generator
) -> pl.DataFrame:
    """Columns of payments in time order; ids are ascending, so that they also order ties."""
    n, terminals = len(payments), people.terminals
    seconds = np.floor(payments.seconds).astype(np.int64)
    age = people.customers.opened_days[payments.customer] + payments.seconds / SECONDS_A_DAY
    columns = {
        "payment_id": pl.Series(np.arange(first_id, first_id + n)),
        "paid_at": pl.Series((seconds + config.start_seconds) * 1_000_000).cast(pl.Datetime("us")),
        "customer_id": pl.Series(payments.customer.astype(np.int64) + 1),
        "card_id": pl.Series(payments.card.astype(np.int64) + 1),
        "terminal_id": pl.Series(terminals.number[payments.terminal]),
        "merchant_category": _names(distributions.CATEGORY_NAMES, terminals.category[payments.terminal]),
        "channel": _names(distributions.CHANNELS, payments.channel),
        "device": _names(distributions.DEVICES, payments.device),
        "country": _names(distributions.COUNTRIES, terminals.country[payments.terminal]),
        "account_age_days": pl.Series(np.floor(age)),
        "amount": pl.Series(np.maximum(np.rint(payments.amount * 100.0), 1.0) / 100.0),
        "is_fraud": _labels(payments.kind, rng),
    }
    frame = pl.DataFrame(columns)
    frame = frame.with_columns(_with_gaps(frame[name], share, rng) for name, share in _GAPS.items())
    if config.with_truth:
        frame = frame.with_columns(_names(FRAUD_KINDS, payments.kind.astype(np.int64) - 1).alias("fraud_kind"))
    return frame


def _names(names: tuple[str, ...], codes: np.ndarray) -> pl.Series:
    """Names (n) for codes (n); null for −1."""
    return pl.Series([*names, None], dtype=pl.String).gather(np.where(codes < 0, len(names), codes))


def _labels(kind: np.ndarray, rng: np.random.Generator) -> pl.Series:
    """1 fraud, 0 genuine or never reported, null undecided."""
    fraud = (kind > 0) & (rng.random(len(kind)) >= UNREPORTED)
    return _with_gaps(pl.Series(fraud.astype(np.int8)), UNDECIDED, rng)


def _with_gaps(values: pl.Series, share: float, rng: np.random.Generator) -> pl.Series:
    """The values (n,) with a random share of nulls."""
    return values.set(pl.Series(rng.random(len(values)) < share), None)
