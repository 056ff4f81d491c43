"""The baseline: LightGBM on automatic aggregates, with the same rows, log and label delay as the model.

`compare` tries a small fixed grid of settings and selects by average precision on the validation range. LightGBM is
imported when it is used, since that takes a moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.aggregates.spec import AggregateSpec
from tsa.errors import ConfigError, DataError
from tsa.evaluation.baseline.features import BaselineFeatures, baseline_features
from tsa.model.boosted_trees import lightgbm_library

if TYPE_CHECKING:
    import lightgbm

    from tsa.data.store.store import EventStore

Array = NDArray[Any]
Params = dict[str, Any]

logger = logging.getLogger(__name__)

MAX_TRAINING_ROWS = 3_000_000
"""Above this number of training payments, genuine ones are sampled, to limit time and memory."""

SHORT = "Time ended its training early: this is not the best that it can do."
"""Added to the note then."""

PATIENCE = 50
"""Early stopping: rounds without a better average precision on the validation range."""

BINNING: Params = {"min_data_in_bin": 1, "feature_pre_filter": False}
OWN_BINS, AGGREGATE_BINS = 8191, 255

GRID: tuple[Params, ...] = (
    {"learning_rate": 0.05, "num_leaves": 31, "min_child_samples": 50, "lambda_l2": 1.0, "feature_fraction": 0.8},
    {"learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 200, "lambda_l2": 10.0, "feature_fraction": 0.5},
    {"learning_rate": 0.05, "num_leaves": 63, "min_child_samples": 100, "lambda_l2": 10.0, "feature_fraction": 0.5},
)


@dataclass(frozen=True, kw_only=True)
class BaselineResult:
    """Scores of the test payments, and how the baseline was trained."""

    scores: Array
    """(T,) float64 probabilities, in the order of `rows_test`."""
    feature_importance: dict[str, float]
    """Share of the total gain per feature, largest first."""
    params: Params
    """The chosen setting, its rounds included."""
    validation_average_precision: tuple[float, ...]
    """Average precision of each setting tried, in the order of `GRID`."""
    seconds: float
    n_train: int
    """Training rows used."""
    negative_rate: float
    """Share of the genuine training rows used; scores are corrected for it."""
    note: str
    """One sentence about the training rows."""


def compare(
    store: EventStore,
    *,
    rows_train: Array,
    rows_validation: Array,
    rows_test: Array,
    seed: int,
    max_rounds: int = 2000,
    threads: int = 2,
    max_training_rows: int = MAX_TRAINING_ROWS,
    grid: Sequence[Params] = GRID,
    seconds: float | None = None,
    cluster: Any = None,
) -> BaselineResult:
    """Train the baseline on `rows_train`, select on `rows_validation`, score `rows_test` (row numbers of the store).

    The same seed gives the same scores for any number of threads. Test rows may repeat others and need no label.
    seconds: after which training stops, with the trees so far; then the note says so.
    cluster: a Ray cluster whose workers compute the features; LightGBM is trained here.

    Raises:
        DataError: If training or validation rows have labels other than 0 and 1, or lack one of the two.
        ConfigError: If LightGBM cannot be imported.
    """
    lgb = lightgbm_library()
    began = time.perf_counter()
    train, rate = _sample(store, np.asarray(rows_train), max_training_rows, seed)
    validation, test = np.asarray(rows_validation), np.asarray(rows_test)
    _check(store, {"training": train, "validation": validation})
    features, parts = _features(store, (train, validation, test), cluster)
    base = _base_params(features, seed, threads)
    data = _dataset(lgb, features, parts[0], np.asarray(store.label[train]), base)
    valid = _dataset(lgb, features, parts[1], np.asarray(store.label[validation]), base, reference=data)
    best, tried = _search(lgb, data, valid, base, grid, max_rounds, None if seconds is None else began + seconds)
    raw = np.asarray(best.booster.predict(parts[2], num_threads=threads), np.float64)
    return BaselineResult(
        scores=_correct(raw, rate),
        feature_importance=_importance(best.booster, features.names),
        params={**best.params, "num_boost_round": best.rounds, "bins": [OWN_BINS, AGGREGATE_BINS], "seed": seed},
        validation_average_precision=tried,
        seconds=time.perf_counter() - began,
        n_train=len(train),
        negative_rate=rate,
        note=_note(len(train), len(rows_train), rate, len(features.names)) + (" " + SHORT if best.is_cut else ""),
    )


def _sample(store: EventStore, rows: Array, max_rows: int, seed: int) -> tuple[Array, float]:
    """Keep every fraud, and sample genuine rows so that about `max_rows` rows remain; also return the sampling rate."""
    if len(rows) <= max_rows:
        return rows, 1.0
    label = np.asarray(store.label[rows])
    genuine = np.flatnonzero(label == 0)
    n_sampled = max(max_rows - (len(rows) - len(genuine)), max_rows // 10)
    if n_sampled >= len(genuine):
        return rows, 1.0
    chosen = np.random.default_rng(seed).choice(genuine, n_sampled, replace=False)
    keep = np.sort(np.concatenate([np.flatnonzero(label != 0), chosen]))
    return rows[keep], n_sampled / len(genuine)


def not_comparable(store: EventStore) -> str | None:
    """Why `compare` could not learn from a store's training and validation ranges; None if it can."""
    ranges = {"training": "train", "validation": "validation"}
    try:
        _check(store, {name: store.labelled(split) for name, split in ranges.items()})
    except DataError as error:
        return str(error)
    return None


def _check(store: EventStore, parts: dict[str, Array]) -> None:
    for name, rows in parts.items():
        label = np.asarray(store.label[rows])
        unknown, frauds = int(np.sum(label < 0)), int(np.sum(label == 1))
        if unknown:
            raise DataError(f"{name} rows must be labelled 0 or 1 (got {unknown} of {len(rows)} with unknown outcome)")
        if frauds in (0, len(rows)):
            raise DataError(
                f"{name} rows must contain fraud and genuine payments (got {frauds} of {len(rows)} fraud); "
                "a label of -1 or a missing label means that the outcome is not known"
            )


def _features(store: EventStore, parts: tuple[Array, ...], cluster: Any) -> tuple[BaselineFeatures, list[Array]]:
    """Compute the features of all parts at once, and return (rows, K) of each; parts may overlap, contiguous ones are views."""
    rows = np.unique(np.concatenate(parts))
    spec = AggregateSpec.of(store, parts[0], history_length=None)
    features = baseline_features(store, rows, spec, cluster=cluster)
    logger.info("made %d features of %d payments", len(features.names), len(rows))
    return features, [_take(features.values, np.searchsorted(rows, part)) for part in parts]


def _take(values: Array, at: Array) -> Array:
    run = len(at) > 0 and bool(np.all(np.diff(at) == 1))
    return values[at[0] : at[-1] + 1] if run else values[at]


def _base_params(features: BaselineFeatures, seed: int, threads: int) -> Params:
    own = set(features.current)
    return {
        **BINNING,
        "objective": "binary",
        "metric": "average_precision",
        "max_bin_by_feature": [OWN_BINS if name in own else AGGREGATE_BINS for name in features.names],
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }


def _dataset(
    lgb: Any, features: BaselineFeatures, values: Array, label: Array, params: Params, reference: Any = None
) -> lightgbm.Dataset:
    codes = [at for at, name in enumerate(features.names) if name in features.categorical]
    data: lightgbm.Dataset = lgb.Dataset(
        values,
        label.astype(np.float32),
        reference=reference,
        params=params,
        categorical_feature=codes,
        free_raw_data=True,
    )
    return data.construct()


@dataclass(frozen=True)
class _Fit:
    booster: lightgbm.Booster
    params: Params
    rounds: int
    average_precision: float
    is_cut: bool = False
    """Whether the time ended training."""


def _search(
    lgb: Any, data: Any, valid: Any, base: Params, grid: Sequence[Params], max_rounds: int, ends: float | None
) -> tuple[_Fit, tuple[float, ...]]:
    """Train every setting with early stopping; return the best on validation, and the average precision of each.

    Each setting that is left gets the same share of the time until `ends`.
    """
    if not grid:
        raise ConfigError("grid must contain at least one setting (got an empty grid)")
    fits = []
    for at, setting in enumerate(grid):
        now = time.perf_counter()
        until = None if ends is None else now + max(0.0, ends - now) / (len(grid) - at)
        fits.append(_train(lgb, data, valid, base, setting, max_rounds, until))
    return max(fits, key=lambda fit: fit.average_precision), tuple(fit.average_precision for fit in fits)


def _train(
    lgb: Any, data: Any, valid: Any, base: Params, setting: Params, max_rounds: int, until: float | None = None
) -> _Fit:
    is_cut = False

    def watch_time(env: Any) -> None:
        nonlocal is_cut
        if until is not None and time.perf_counter() >= until:
            is_cut = True
            raise lgb.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    stop = lgb.early_stopping(PATIENCE, first_metric_only=True, verbose=False)
    callbacks = [stop, watch_time]
    booster = lgb.train(
        {**base, **setting}, data, max_rounds, valid_sets=[valid], valid_names=["v"], callbacks=callbacks
    )
    average_precision = float(booster.best_score["v"]["average_precision"])
    logger.info(
        "%s: validation average precision %.4f after %d rounds", setting, average_precision, booster.best_iteration
    )
    return _Fit(booster, dict(setting), int(booster.best_iteration), average_precision, is_cut)


def _correct(raw: Array, rate: float) -> Array:
    """Correct probabilities for training on a share `rate` of the genuine rows."""
    return raw * rate / (raw * rate + 1.0 - raw)


def _importance(booster: lightgbm.Booster, names: Sequence[str]) -> dict[str, float]:
    gain = np.asarray(booster.feature_importance("gain"), np.float64)
    gain /= max(gain.sum(), np.finfo(np.float64).tiny)
    return {names[at]: float(gain[at]) for at in np.argsort(-gain, kind="stable")}


def _note(used: int, given: int, rate: float, features: int) -> str:
    note = f"LightGBM, with aggregates over the full log, trained on {used:,} payments with {features} features"
    if rate == 1.0:
        return f"{note}: every training payment."
    return f"{note}: every fraud of {given:,} training payments, and a {rate:.1%} sample of the genuine ones."
