"""Train a finished run again on all payments whose outcomes are known by now: what it was validated and calibrated on, too.

The number of epochs and of trees are those of the run. The new model learns from every range, so calibration and the weights of
its parts come from cross-fitting (Wolpert 1992): two further models learn from everything except one of the ranges, validation or
calibration, and score that one.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tsa.data.store.manifest import MANIFEST
from tsa.data.store.resplit import Ranges, resplit, with_ranges
from tsa.data.store.store import EventStore, open_referred
from tsa.data.time_range import epoch_seconds
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs
from tsa.inference.scorer import Scorer
from tsa.progress import Progress, silent
from tsa.times import iso
from tsa.training.distributed import distributed_context
from tsa.training.finalize import Trained
from tsa.training.parts.train_parts import Array
from tsa.training.refitting.recipe import LEARNED, Recipe
from tsa.training.run_folder import (
    CROSS_FIT,
    ensure_no_run,
    ensure_run_folder,
    finished,
    read_run_metadata,
)
from tsa.training.train_model import train_network
from tsa.training.training_run import Refitted

LEFT_OUT = ("validation", "calibration")
"""The ranges that a model does not learn from in turn."""

When = str | datetime | float | None

logger = logging.getLogger(__name__)


def refit(
    run: str | Path | Recipe,
    out: str | Path,
    *,
    store: EventStore | str | Path | None = None,
    until: When = None,
    progress: Progress = silent,
    resume: bool = False,
    overwrite: bool = False,
    with_bundle: bool = True,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Trained:
    """Train the model of a finished run on all payments whose outcomes are known by a given time, and write a run folder.

    The folder has its own `store`, whose vocabularies and scalers are fitted on the same payments, and can be evaluated on
    payments from that time on only.

    Args:
        run: The finished run, or its recipe.
        out: The run folder to write.
        store: The payments; None: the run's store. A later one, with more payments, may have other ranges.
        until: Outcomes that are known by this time are learned from: UTC, or epoch seconds. None: the beginning of the
            store's test range.
        progress: Reports progress.
        resume: Continue an interrupted refit.
        overwrite: Replace a finished run in `out`.
        with_bundle: Whether to write the bundle; else call `Trained.write`, for example with the metrics of an evaluation.
        on_epoch: Called with the record of each epoch.

    Returns:
        The result of training.

    Raises:
        ConfigError: If `run` is no finished run, `out` has other content, or `until` is no time.
        DataError: If a range has no payments.
        StoreError: If the run's store has moved.
        TrainingStopped: After SIGTERM, once a checkpoint is saved.

    Example:
        >>> from tsa.training.refitting import refit
        >>> trained = refit("run", "refitted")
        >>> trained.bundle.training["refit"]["epochs"] == trained.bundle.training["training"]["epochs"]
        True
    """
    out = Path(out)
    recipe = run if isinstance(run, Recipe) else Recipe.of(run)
    source = _source(run, store)
    check_outputs([source.path, None if isinstance(run, Recipe) else run], into={"--out": out})
    ranges = ranges_until(source, until)
    given: dict[str, Any] = {"progress": progress, "resume": resume, "overwrite": overwrite, "on_epoch": on_epoch}
    with distributed_context(recipe.training.device) as processes:
        if processes.is_main:
            _refuse(out, resume=resume, overwrite=overwrite)
        work = partial(_store, source, ranges, out / "store", progress, resume=resume)
        own = processes.run_then_barrier("store", work if processes.is_main else None)
        made = EventStore.open(out / "store") if own is None else own
        is_finished = processes.broadcast(resume and finished(out))
        held_out = {} if is_finished else _cross_fitted(recipe, made, out, given)
        return train_network(
            made,
            out,
            preset=recipe.preset,
            model=recipe.model,
            training=recipe.training,
            with_bundle=with_bundle,
            refitted=Refitted(held_out=held_out, origin=_origin(recipe, made)),
            **given,
        )


def _refuse(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check the folder before anything is written."""
    ensure_run_folder(out)
    if resume or overwrite:
        return
    ensure_no_run(out, overwrite=False)
    if (out / CROSS_FIT).exists():
        raise ConfigError(f"{out} holds an unfinished refit; continue it with --resume, or replace it with --overwrite")


def ranges_until(store: EventStore, until: When = None) -> Ranges:
    """The ranges of a store, moved so that all payments whose outcomes are known by `until` are learned from.

    Raises:
        ConfigError: If `until` is no time, or nothing is known by then.
    """
    splits = store.manifest["splits"]
    if until is None and not splits:
        raise ConfigError(f"{store.path} has no ranges: say by when outcomes are known (--until)")
    moment = float(until) if isinstance(until, int | float) else epoch_seconds("until", until, 0.0)
    now = splits["test"]["start_seconds"] if until is None else moment
    times = np.asarray(store.time_seconds)
    first = float(splits["train"]["start_seconds"] if splits else times[0])
    known = now - store.market.label.gap_seconds
    if not first < known:
        raise ConfigError(f"outcomes must be known for payments after {iso(first)} (got known until {iso(known)})")
    if until is None:
        edges = [first, *(float(splits[name]["start_seconds"]) for name in LEFT_OUT), known]
        end = float(splits["test"]["end_seconds"])
    else:
        train, validation, _ = store.market.split.shares
        span = known - first
        edges = [first, float(round(first + train * span)), float(round(first + (train + validation) * span)), known]
        end = max(float(np.ceil(times[-1])) + 1.0, now + 1.0)
    return {**dict(zip(LEARNED, itertools.pairwise(edges), strict=True)), "test": (now, end)}


def _cross_fitted(
    recipe: Recipe, store: EventStore, out: Path, given: Mapping[str, Any]
) -> dict[str, dict[str, Array]]:
    """(m,) log odds by part and range, each from a model that did not learn from the range."""
    parts = recipe.model.get("parts", "auto")
    # one part alone needs no weights, which the left-out range would have to give
    model = {**recipe.model, "parts": "network" if parts == "network" else "trees"}
    held_out: dict[str, dict[str, Array]] = {}
    for name in LEFT_OUT:
        logger.info("training without the %s range", name)
        trained = train_network(
            store,
            out / CROSS_FIT / name,
            preset=recipe.preset,
            model=model,
            training=recipe.training_without(name),
            with_bundle=True,
            **given,
        )
        scorer, rows = Scorer(trained.bundle).model, store.split_rows(name)
        with given["progress"](f"scoring the {name} range", len(rows)) as advance:
            both = ("network",) if trained.bundle.trees is None else ("network", "trees")
            log_odds = scorer.log_odds_of_store(store, rows, both, advance=advance)
        for part, values in log_odds.items():
            held_out.setdefault(part, {})[name] = values
    return held_out


def _origin(recipe: Recipe, store: EventStore) -> dict[str, Any]:
    return {
        "run": recipe.run,
        "weights": recipe.weights,
        "until": iso(store.manifest["splits"]["test"]["start_seconds"]),
        "epochs": recipe.training.epochs,
        "trees": recipe.training.n_trees,
    }


def _source(run: str | Path | Recipe, store: EventStore | str | Path | None) -> EventStore:
    """The payments: those given, or those of the run."""
    if isinstance(store, EventStore):
        return store
    if store is not None:
        return EventStore.open(store)
    if isinstance(run, Recipe):
        raise ConfigError("a recipe needs a store (got none)")
    return open_referred(Path(run), read_run_metadata(Path(run))["store"])


def _store(source: EventStore, ranges: Ranges, out: Path, progress: Progress, *, resume: bool) -> EventStore:
    if resume and (out / MANIFEST).is_file():
        return EventStore.open(out, with_ranges(source.market, ranges))
    return resplit(source, ranges, out, learned=LEARNED, may_be_empty=("test",), progress=progress)
