"""Fit a model to a frame: propose or read the market, prepare, train and measure in a temporary folder."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.config.overrides import Overrides
from tsa.data.log.quarantine import QuarantineLike
from tsa.data.proposal.guesses import Guess
from tsa.data.proposal.known_columns import Given
from tsa.data.proposal.propose import propose
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.data.store.summary import refuse_unmeasured
from tsa.errors import ConfigError
from tsa.estimator.fitted import FittedModel, columns_of
from tsa.estimator.report import Report
from tsa.estimator.roles import Role, roles_of_market, roles_of_proposal, sentence_of_guesses
from tsa.evaluation.baseline.lightgbm import not_comparable
from tsa.files.writing import read_json
from tsa.progress import Progress
from tsa.text import brief
from tsa.training import TrainingConfig
from tsa.training.evaluate_and_bundle import measure_trained
from tsa.training.train_model import train_network

LABEL = "label"
"""The column of outcomes that are given separately, if it has no name."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """The parameters of an estimator, checked."""

    given: Given
    market: Market | None
    preset: str
    texts: tuple[str, ...]
    """The settings as `key=value`."""
    compare: bool
    quarantine: QuarantineLike
    saved: Mapping[str, Any] = field(default_factory=dict)
    """The parameters as JSON values."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> FitSettings:
        """The settings of an estimator's parameters. Raises ConfigError, or MarketError for a market file."""
        keys = params["keys"]
        keys = (keys,) if isinstance(keys, str) else tuple(keys or ())
        named = {name: params[name] for name in ("time", "id", "label", "amount")}
        if other := [value for value in (*named.values(), *keys) if not isinstance(value, str | None)]:
            raise ConfigError(f"columns must be given by their names (got {brief(other[0])}): use texts")
        given = Given(**named, keys=keys)
        market = _market(params["market"])
        if market is not None and given.columns:
            rule = "market says what the columns mean, so columns must be left out"
            raise ConfigError(f"{rule} (got {', '.join(given.columns)} too): give one of them")
        if market is not None and market.wire is not None:
            raise ConfigError(
                f"market must be one of logs (got {market.name}, whose rows carry their own history): use tsa run"
            )
        texts = _texts(params["settings"] or {})
        saved = {name: params[name] for name in ("preset", "compare", "progress", *named)}
        saved |= {"keys": list(keys) or None, "settings": dict(params["settings"] or {}) or None}
        saved |= {"market": None if market is None else market.to_dict()}
        own = {name: params[name] for name in ("preset", "compare", "quarantine")}
        return cls(given=given, market=market, texts=texts, saved=saved, **own)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are named."""
        market = self.market
        return self.given.columns if market is None else (*market.raw_columns, market.event.time, market.label.column)

    @property
    def label_column(self) -> str:
        """The column of the outcome."""
        return self.market.label.column if self.market is not None else self.given.label or LABEL


def _market(market: Any) -> Market | None:
    if market is None or isinstance(market, Market):
        return market
    return Market.from_dict(market) if isinstance(market, Mapping) else Market.load(market)


def _texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return tuple(f"{name}={_text(value)}" for name, value in settings.items())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings must be numbers, texts, lists or tables (got {brief(error)})") from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, allow_nan=False)


def fit_frame(frame: pl.DataFrame, settings: FitSettings, folder: Path, progress: Progress) -> FittedModel:
    """Fit a model to a frame, with its files in an empty folder.

    Raises:
        TSAError: As `tsa run`.
    """
    log = folder / "payments.parquet"
    frame.write_parquet(log)
    with progress("reading the columns", 1) as advance:
        market, roles = _meaning(log, settings)
        advance(1)
    overrides = Overrides.read(settings.texts, market)
    assert overrides.market is not None
    with progress("preparing", 1) as advance:
        store = prepare(overrides.market, log, folder / "store", quarantine=settings.quarantine, progress=progress)
        advance(1)
    _train(store, folder / "run", settings, overrides, progress)
    return FittedModel(
        bundle=Bundle.open(folder / "run" / "bundle"),
        history=frame.select(columns_of(overrides.market, frame)),
        report=Report(
            read_json(folder / "run" / "report.json", ConfigError),
            (folder / "run" / "report.html").read_text(encoding="utf-8"),
        ),
        roles=roles,
        classes=_classes(frame[overrides.market.label.column], overrides.market),
        params=settings.saved,
    )


def _meaning(log: Path, settings: FitSettings) -> tuple[Market, tuple[Role, ...]]:
    """The market, with the roles of its columns: as given, or proposed for the log."""
    if settings.market is not None:
        return settings.market, roles_of_market(settings.market)
    proposed = propose([str(log)], _most_likely, "frame", settings.given)
    market = Market.from_dict(tomllib.loads(proposed.text))
    roles = roles_of_proposal(proposed.guesses, market)
    if sentence := sentence_of_guesses(roles):
        logger.info("%s", sentence)
    return market, roles


def _most_likely(question: str, options: Sequence[Guess]) -> Guess:
    return options[0]


def _train(store: EventStore, out: Path, settings: FitSettings, overrides: Overrides, progress: Progress) -> None:
    """Train, measure, and compare with LightGBM if that is asked for and possible."""
    refuse_unmeasured(store)
    comparison = settings.compare
    if comparison and (reason := not_comparable(store)) is not None:
        logger.warning("there is no comparison with LightGBM: %s", reason)
        comparison = False
    trained = train_network(
        store,
        out,
        preset=settings.preset,
        model=overrides.model,
        training=TrainingConfig.make(overrides.training),
        progress=progress,
    )
    measure_trained(trained, comparison=comparison, progress=progress)


def _classes(label: pl.Series, market: Market) -> tuple[Any, Any]:
    """The values of genuine and fraud, as the frame has them."""
    if label.dtype == pl.Boolean:
        return False, True
    if market.label.fraud is not None and market.label.genuine is not None:
        return market.label.genuine[0], market.label.fraud[0]
    if label.dtype == pl.String:
        values = label.drop_nulls().str.strip_chars().unique().to_list()
        genuine = [value for value in values if value.lower() in ("0", "false", "f", "no", "n")]
        fraud = [value for value in values if value.lower() in ("1", "true", "t", "yes", "y")]
        if len(genuine) == len(fraud) == 1:
            return genuine[0], fraud[0]
    return 0, 1
