"""`fit`: a fitted `FraudClassifier` in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tsa.config.market import Market
from tsa.data.log.quarantine import QuarantineLike
from tsa.estimator.classifier import FraudClassifier
from tsa.estimator.frames import Frame


def fit(
    df: Frame,
    *,
    label: str | None = None,
    time: str | None = None,
    id: str | None = None,
    keys: Sequence[str] | str | None = None,
    amount: str | None = None,
    market: Market | Mapping[str, Any] | str | Path | None = None,
    preset: str = "default",
    settings: Mapping[str, Any] | None = None,
    compare: bool = True,
    quarantine: QuarantineLike = None,
    progress: bool | None = None,
) -> FraudClassifier:
    """Fit a fraud model to a data frame of payments, of pandas or Polars. The arguments are those of `tsa.FraudClassifier`.

    Returns:
        The fitted model: `predict_proba(df)`, `score(df)`, `explain(df)`, `report()`, `save(path)`.

    Raises:
        TSAError: As `FraudClassifier.fit`.

    Example:
        >>> import polars as pl
        >>> df = pl.read_parquet("payments.parquet").sort("paid_at")
        >>> small = {"training.epochs": 1, "model.width": 16, "model.parts": "network"}
        >>> columns = {"label": "is_fraud", "time": "paid_at", "id": "payment_id", "keys": ["card_id", "terminal_id"]}
        >>> model = tsa.fit(df[:5000], **columns, settings=small, compare=False)
        >>> model.score(df[5000:]).columns
        ['id', 'raw_score', 'percentile']
    """
    settings_of = {name: value for name, value in locals().items() if name != "df"}
    return FraudClassifier(**settings_of).fit(df)
