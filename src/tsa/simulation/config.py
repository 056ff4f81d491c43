"""Settings of a simulation, validated on creation, and its seeded random streams."""

from __future__ import annotations

import re
import zlib
from typing import ClassVar, Self

import numpy as np
from pydantic import ConfigDict, Field, field_validator, model_validator

from tsa.config.settings import Settings, option
from tsa.times import as_utc, parse_time, to_seconds

SECONDS_A_DAY = 86_400
MAX_PAYMENTS_A_DAY = 2_000_000  # a day is the smallest chunk in memory


class SimulationConfig(Settings):
    """Size, time and randomness of a simulated log. The same settings give a byte-identical log."""

    model_config = ConfigDict(strict=True)
    section: ClassVar[str] = "simulation"

    payments: int = Field(default=200_000, ge=1)
    """Rows of the log, frauds included."""
    days: int = option(120, "--days", "Number of days.", ge=1)
    start: str = option("2025-01-01", "--start", "The first day, in UTC.")
    customers: int | None = Field(default=None, ge=1)
    """Number of customers; none for one to each 25 payments."""
    terminals: int | None = Field(default=None, ge=1)
    """Number of terminals; none for one to each 50 payments."""
    fraud_rate: float = option(0.009, "--fraud-rate", "Share of payments that are fraud.", ge=0, le=0.5)
    """Slightly fewer are labelled, since some fraud is never reported."""
    seed: int = option(0, "--seed", "Random seed; the same seed and size give the same file.", ge=0)
    with_truth: bool = option(False, "--truth", "Add the kind of each fraud as a column.")
    """The column is `fraud_kind`, null for genuine payments. It is never a feature."""

    @field_validator("start")
    @classmethod
    def _check_start(cls, value: str) -> str:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise ValueError("must be a date like 2025-01-31")
        return value

    @model_validator(mode="after")
    def _check_period(self) -> Self:
        if self.payments > self.days * MAX_PAYMENTS_A_DAY:
            rule = f"payments must be at most {MAX_PAYMENTS_A_DAY} a day"
            raise ValueError(f"{rule} (got payments={self.payments}, days={self.days})")
        if parse_time(self.start) is None:
            raise ValueError(f"start must be a date like 2025-01-01 (got start={self.start!r})")
        return self

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
