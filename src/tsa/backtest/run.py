"""`backtest`: fold after fold, each model trained on what was known then and tested on what came next.

The folder has `backtest.json` and `backtest.html`, and a folder for each fold with its result, bundle and scores.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tsa.backtest.fold import WORK, read_fold, run_fold
from tsa.backtest.plan import BacktestSchedule, Fold, describe, plan_folds
from tsa.backtest.report import write_backtest
from tsa.backtest.settings import BacktestSettings
from tsa.backtest.summary import summarise
from tsa.backtest.workers import in_processes
from tsa.data.store.manifest import MANIFEST
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError
from tsa.evaluation.report.json_values import to_plain
from tsa.files.outputs import check_folder, check_outputs
from tsa.files.writing import read_json, sha256_of, write_json
from tsa.progress import Progress, silent
from tsa.scale.cluster import in_cluster
from tsa.value_differences import differences

PLAN, FOLDS, STORE = "plan.json", "folds", "store"
RESULT, PAGE = "backtest.json", "backtest.html"

logger = logging.getLogger(__name__)


def backtest(
    store: EventStore | str | Path,
    out: str | Path,
    *,
    schedule: BacktestSchedule | None = None,
    settings: BacktestSettings | None = None,
    workers: int = 1,
    cluster: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
    on_fold: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and test a model for each date of a schedule, as if it were that date; write `out/backtest.html` and `.json`.

    The store's own ranges and encoder are not used. Each fold fits its vocabularies, scalers, trees, network, calibration and
    thresholds on payments before its date whose outcomes were known by then.

    Args:
        store: The payments: a store or its folder.
        out: The folder of the backtest.
        schedule: When models are trained; None: every 7 days from the market's test range on.
        settings: How they are trained and measured; None: the defaults.
        workers: Folds that are trained at a time, each in a process.
        cluster: A Ray cluster (`tsa.scale.cluster.ray_cluster`) whose workers train the folds, instead of processes here. All
            nodes must see the store and `out`.
        resume: Continue an interrupted backtest with the same schedule and settings: complete folds are used as they are.
        overwrite: Replace the backtest in `out`.
        progress: Reports progress.
        on_fold: Called with the result of each fold, in the order in which they end.

    Returns:
        The content of backtest.json.

    Raises:
        ConfigError: If no fold fits, `out` has other content, or another backtest.
        DataError: If no fold could be trained and measured.
    """
    if not isinstance(store, EventStore):
        store = EventStore.open(Path(store))
    out, settings, schedule = Path(out), settings or BacktestSettings(), schedule or BacktestSchedule()
    if workers < 1:
        raise ConfigError(f"workers must be at least 1 (got {workers})")
    if cluster is not None and workers > 1:
        raise ConfigError(
            f"workers must be 1 with a cluster, which has its own (got {workers}): leave one of the two out"
        )
    if settings.warm_start and (workers > 1 or cluster is not None):
        rule = "workers must be 1 with a warm start, since each fold starts from the weights of the fold before"
        got = f"{workers}" if cluster is None else "those of a cluster"
        raise ConfigError(f"{rule} (got {got}): leave one of the two out")
    if store.market.wire is not None:
        raise ConfigError("a backtest needs a log of payments (got rows that carry their own history)")
    check_outputs([], into={"out": out})
    folds = plan_folds(store, schedule)
    _begin(out, _plan(store, schedule, settings, folds), resume=resume, overwrite=overwrite)
    results = _run(store, folds, settings, out, workers, cluster, progress, on_fold)
    if all("skipped" in result for result in results):
        raise DataError(f"no fold could be trained and measured; the first: {results[0]['skipped']}")
    result: dict[str, Any] = to_plain(
        {
            "market": store.market.name,
            "schedule": describe(schedule),
            "settings": settings.to_dict(),
            "label_delay_seconds": store.market.label.gap_seconds,
            "folds": results,
            "summary": summarise(results),
        }
    )
    write_json(out / RESULT, result)
    write_backtest(out / PAGE, result)
    return result


def _plan(
    store: EventStore, schedule: BacktestSchedule, settings: BacktestSettings, folds: tuple[Fold, ...]
) -> dict[str, Any]:
    """What must be the same when a backtest is continued."""
    return {
        "store": sha256_of(store.path / MANIFEST),
        "market": store.market.canonical_dict,
        "schedule": dict(describe(schedule)),
        "settings": settings.to_dict(),
        "folds": [fold.to_dict() for fold in folds],
    }


def _begin(out: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Write the plan, or check that it is that of the backtest to continue.

    Raises:
        ConfigError: If `out` has other content, or another backtest.
    """
    own = {PLAN, FOLDS, STORE, RESULT, PAGE}
    check_folder(out, "a backtest", PLAN, lambda name: name in own or name.endswith(".log") or name.startswith("."))
    if (out / PLAN).is_file() and not overwrite:
        if not resume:
            raise ConfigError(f"{out} holds a backtest; continue it with --resume, or replace it with --overwrite")
        earlier = read_json(out / PLAN, ConfigError)
        if lines := list(differences(earlier, to_plain(plan))):
            raise ConfigError(f"{out} holds another backtest (that one, then this):\n  " + "\n  ".join(lines[:20]))
        return
    if overwrite:
        for path in sorted((out / FOLDS).glob("*/fold.json")):
            path.unlink()
        for path in sorted((out / FOLDS).glob(f"*/{WORK}/run/run.json")):
            path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / PLAN, to_plain(plan))


def _run(
    store: EventStore,
    folds: tuple[Fold, ...],
    settings: BacktestSettings,
    out: Path,
    workers: int,
    cluster: Any,
    progress: Progress,
    on_fold: Callable[[dict[str, Any]], None] | None,
) -> list[dict[str, Any]]:
    """The result of each fold, in order."""
    places = [out / FOLDS / fold.name for fold in folds]
    results: dict[int, dict[str, Any]] = {}

    def ended(at: int, result: dict[str, Any]) -> None:
        results[at] = result
        if on_fold:
            on_fold(result)

    with progress("backtest", len(folds)) as advance:
        for at, place in enumerate(places):
            if (done := read_fold(place)) is not None:
                ended(at, done)
                advance(1)
        left = [at for at in range(len(folds)) if at not in results]
        if cluster is not None:
            shared = store.url or store.path.resolve(), folds, settings
            items = [(at, places[at].resolve()) for at in left]
            for number, result in in_cluster(cluster, run_in_cluster, shared, items):
                if read_fold(places[left[number]]) is None:
                    rule = f"{out} must be a folder that all nodes of the cluster share"
                    raise ConfigError(f"{rule} (a worker wrote a fold that is not there): use another folder")
                ended(left[number], result)
                advance(1)
        elif min(workers, len(left)) <= 1:
            for at in left:
                ended(at, run_fold(store, folds, at, settings, places[at], progress=progress))
                advance(1)
        else:
            n = min(workers, len(left))
            threads = max(1, torch.get_num_threads() // n)
            calls = [(store.path, folds, at, settings, places[at], threads) for at in left]
            for number, result in in_processes(run_in_worker, calls, n, progress):
                ended(left[number], result)
                advance(1)
    return [results[at] for at in range(len(folds))]


def run_in_cluster(
    shared: tuple[str | Path, tuple[Fold, ...], BacktestSettings], item: tuple[int, Path]
) -> dict[str, Any]:
    """`run_fold` in a worker of a cluster, with one thread. shared: the store, the folds, and how they are trained."""
    (source, folds, settings), (at, folder) = shared, item
    return run_in_worker(source, folds, at, settings, folder, 1, silent)


def run_in_worker(
    source: str | Path,
    folds: tuple[Fold, ...],
    at: int,
    settings: BacktestSettings,
    folder: Path,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """`run_fold` in a worker process, with so many threads of PyTorch and LightGBM."""
    torch.set_num_threads(threads)
    return run_fold(EventStore.open(source), folds, at, settings, folder, progress=progress)
