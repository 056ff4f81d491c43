"""Tables of a market file that may be left out: `[privacy]`, `[serving]`, `[trees]`."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tsa.config.base import Column, ConfigModel
from tsa.times import DAY_SECONDS

_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}


class Trees(ConfigModel):
    """What the boosted trees see of a history: aggregates of its last events.

    Attributes:
        history_length: Events of each key that aggregates reach back over, the current one included. A history
            store keeps as many where the bundle has trees.
        windows: Lengths of time that events are counted and summed over, such as "30m", "1h" or "7d", in addition to
            all events.
    """

    history_length: int = Field(default=256, ge=2, le=100_000)
    windows: tuple[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}[mhd]$")], ...] = ("1h", "1d", "7d", "30d")

    @model_validator(mode="after")
    def _longer_and_longer(self) -> Self:
        seconds = self.window_seconds
        if any(later <= earlier for earlier, later in itertools.pairwise(seconds)):
            raise ValueError(f"windows must become longer and longer (got {list(self.windows)})")
        return self

    @property
    def window_seconds(self) -> tuple[int, ...]:
        """The windows in seconds."""
        return tuple(int(window[:-1]) * _UNIT_SECONDS[window[-1]] for window in self.windows)


class Privacy(ConfigModel):
    """Privacy settings of a market.

    Attributes:
        pseudonymise: Columns (ids, keys, categorical features, segments) whose values are replaced by a keyed hash
            when read.
        secret_env: The environment variable with the key of that hash. Its value is never stored.
        forbidden: Attributes that must not be used, in upper or lower case.
        retention_days: Events older than this, seen from the current payment, are not part of its history.
    """

    pseudonymise: tuple[Column, ...] = ()
    secret_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    forbidden: tuple[Column, ...] = ()
    retention_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        if self.pseudonymise and self.secret_env is None:
            raise ValueError(
                "pseudonymise needs secret_env, the name of the environment variable with the key (got none)"
            )
        return self

    @property
    def retention_seconds(self) -> float:
        """How long events are visible; infinite if not limited."""
        return math.inf if self.retention_days is None else self.retention_days * DAY_SECONDS


class Serving(ConfigModel):
    """What the endpoint refuses, and what it does when it cannot read histories.

    Attributes:
        unknown_fields: Ignore or refuse fields that are not columns of the market.
        max_future_seconds: How much later than the server's clock a payment may be.
        max_late_days: How much earlier than the last payment of its keys a payment may be. None: any time.
        on_history_unavailable: If histories cannot be read within `history_timeout_seconds`: refuse the payment
            ("reject"), or score it without histories and report that ("degraded").
        split_salt: Hashed with the key that decides between champion and challenger. None: the market's name.
    """

    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    max_future_seconds: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    max_late_days: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    on_history_unavailable: Literal["reject", "degraded"] = "reject"
    history_timeout_seconds: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    split_salt: str | None = Field(default=None, min_length=1)
