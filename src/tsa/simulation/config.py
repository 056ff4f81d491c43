"""Settings of a simulation, validated on creation, and its seeded random streams."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from tsa.errors import ConfigError
from tsa.times import as_utc, parse_time, to_seconds

SECONDS_A_DAY = 86_400
MAX_PAYMENTS_A_DAY = 2_000_000  # a day is the smallest chunk in memory


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """Size, time and randomness of a simulated log. The same settings give a byte-identical log.

    payments     rows of the log, frauds included
    days, start  the period: number of days from an ISO date, UTC
    customers    None: one for each 25 payments
    terminals    None: one for each 50 payments
    fraud_rate   share of payments that are fraud; slightly fewer are labelled, since some fraud is never reported
    with_truth   add the column `fraud_kind`, null for genuine payments; never a feature

    Raises ConfigError for a setting out of bounds.
    """

    payments: int = 200_000
    days: int = 120
    start: str = "2025-01-01"
    customers: int | None = None
    terminals: int | None = None
    fraud_rate: float = 0.009
    seed: int = 0
    with_truth: bool = False

    def __post_init__(self) -> None:
        _at_least("payments", self.payments, 1)
        _at_least("days", self.days, 1)
        _at_least("seed", self.seed, 0)
        for name, value in (("customers", self.customers), ("terminals", self.terminals)):
            if value is not None:
                _at_least(name, value, 1)
        if not 0.0 <= self.fraud_rate <= 0.5:
            raise ConfigError(f"fraud_rate must lie in [0, 0.5] (got fraud_rate={self.fraud_rate})")
        if self.payments > self.days * MAX_PAYMENTS_A_DAY:
            rule = f"payments must be at most {MAX_PAYMENTS_A_DAY} a day"
            raise ConfigError(f"{rule} (got payments={self.payments}, days={self.days})")
        if not isinstance(self.start, str) or len(self.start) != len("2025-01-01") or parse_time(self.start) is None:
            raise ConfigError(f"start must be a date like 2025-01-01 (got start={self.start!r})")

    @property
    def n_frauds(self) -> int:
        """Number of payments that are truly fraud."""
        return round(self.payments * self.fraud_rate)

    @property
    def n_customers(self) -> int:
        """Customers to draw; in a short log some never pay."""
        return self.customers if self.customers is not None else max(20, self.payments // 25)

    @property
    def n_terminals(self) -> int:
        """Terminals to draw; in a short log some are never used."""
        return self.terminals if self.terminals is not None else max(20, self.payments // 50)

    @property
    def period_seconds(self) -> int:
        """Length of the period."""
        return self.days * SECONDS_A_DAY

    @property
    def start_seconds(self) -> int:
        """The first moment of the period, in epoch seconds."""
        return int(to_seconds(as_utc(self.start)))

    @property
    def first_weekday(self) -> int:
        """Weekday of the first day, Monday is 0."""
        return as_utc(self.start).weekday()

    def generator(self, purpose: str, part: int = 0) -> np.random.Generator:
        """A separate random stream per purpose, so that a change to one does not affect the others."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, zlib.crc32(purpose.encode()), part]))


def _at_least(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be an integer of at least {least} (got {name}={value!r})")
