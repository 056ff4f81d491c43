"""Evaluate a trained run, then write its bundle with the metrics; also a run that was stopped, as it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tsa.data.store.manifest import MANIFEST
from tsa.data.store.store import EventStore, open_referred
from tsa.errors import ConfigError, StoreError
from tsa.evaluation.evaluate import comparison_on, metrics_of, report_on
from tsa.evaluation.trained_run import TrainedRun, for_evaluation
from tsa.files.writing import sha256_of
from tsa.inference.scorer import Scorer
from tsa.model import ModelConfig, TSANetwork
from tsa.progress import Progress, silent
from tsa.training.checkpoint import Checkpoints
from tsa.training.config import TrainingConfig
from tsa.training.diagnostics import translate_resource_errors
from tsa.training.distributed import distributed_context
from tsa.training.early_stopping import EarlyStopping
from tsa.training.ending.stop_signals import StopRequest
from tsa.training.ending.time_limit import TimeLimit
from tsa.training.finalize import Trained
from tsa.training.run_folder import CHECKPOINTS, read_run_metadata, run_identity
from tsa.training.training_run import TrainingRun, labelled_rows
from tsa.training.validation import DistributedScorer

COMPARED_SHARE = 0.8
"""Share of the time left that LightGBM may take; the rest is for measuring it."""

AVERAGE = "module."
"""Begins the names of the averaged weights in a checkpoint."""

logger = logging.getLogger(__name__)


def measure_trained(
    trained: Trained,
    *,
    comparison: bool,
    limit: TimeLimit | None = None,
    overrides: Sequence[str] = (),
    progress: Progress = silent,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate a trained run, optionally compare it with LightGBM, then write its bundle.

    Writes the same files as `train`, `evaluate` and `compare_run` in turn, without scoring anything twice. If evaluation
    fails, the bundle is still written, with the metrics so far.

    Args:
        trained: The result of training.
        comparison: Whether to train LightGBM for comparison.
        limit: Time for all of it. LightGBM stops when it is up, and is not trained if there is none left.
        overrides: `evaluation.KEY=value` settings over the market.
        progress: Reports progress.
        settings: As for `evaluate`.

    Returns:
        The content of report.json.

    Raises:
        DataError: If no outcome of the test range is known, or LightGBM cannot be trained on these rows.
    """
    run = TrainedRun(
        path=trained.out,
        scorer=Scorer(trained.bundle),
        store=trained.store,
        metadata=json.loads(json.dumps(trained.metadata)),
        market=for_evaluation(trained.store.market, overrides),
        weights_hash=trained.bundle.model_sha256,
        scored=trained.scores,
    )
    report: dict[str, Any] = {}
    try:
        report = report_on(run, progress=progress, **settings)
        seconds = None if limit is None else COMPARED_SHARE * limit.seconds_left()
        if comparison and seconds is not None and seconds <= 0:
            logger.warning("no time is left for the comparison with LightGBM; run: tsa compare %s", trained.out)
        elif comparison:
            report["comparison"] = comparison_on(run, report, seconds=seconds, progress=progress)
    finally:
        trained.write(metrics_of(report) if report else None)
    return report


def trained_so_far(out: str | Path, *, progress: Progress = silent) -> Trained:
    """Finish the model of an unfinished run: score the validation and calibration ranges, and calibrate.

    The run stays unfinished, and can be resumed.

    Raises:
        ConfigError: If `out` has no unfinished run, or it was stopped before its first checkpoint.
        StoreError: If its store has moved or changed.
    """
    out = Path(out)
    metadata = read_run_metadata(out)
    if "store" not in metadata:
        raise ConfigError(f"{out} must be the folder of a run, but has no run.json that can be read")
    if "finished" in metadata:
        raise ConfigError(f"{out} holds a finished run; leave --unfinished out")
    store = _store_of(out, metadata)
    config, model = TrainingConfig.make(metadata["training"]), ModelConfig.make(metadata["model"])
    checkpoints = Checkpoints(out / CHECKPOINTS, run_identity(store, config, model))
    state = checkpoints.load_latest()
    if state is None:
        raise ConfigError(f"{out} has no checkpoint yet, so there is no model; continue it with --resume")
    history = EarlyStopping()
    history.load_state_dict(state["history"])
    network = TSANetwork(model)
    network.load_state_dict(checkpoints.best_weights(history.best_epoch) or _average(state))
    with distributed_context(config.device) as processes, translate_resource_errors(out):
        run = TrainingRun(
            store=store,
            out=out,
            config=config,
            model=model,
            network=network.to(processes.device).eval(),
            rows=labelled_rows(store, config),
            metadata=_training_of(metadata),
            processes=processes,
        )
        end = {
            "best_epoch": history.best_epoch or None,
            "epochs": history.epochs,
            "outlook": _note(history, state, config),
        }
        scoring = DistributedScorer(store, processes, progress, StopRequest())
        return run.finish(scoring, progress, end, {**metadata, **end}, is_unfinished=True)


def _store_of(out: Path, metadata: Mapping[str, Any]) -> EventStore:
    store = open_referred(out, metadata["store"])
    if sha256_of(store.path / MANIFEST) != metadata["store_manifest"]:
        raise StoreError(f"{store.url or store.path} was prepared again after {out} began; train again")
    return store


def _training_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the bundle of the finished run would hold too: nothing of the machine."""
    names = ("training", "rows", "sampling_rate_genuine", "market_fingerprint", "preset", "model", "adapted")
    return {name: metadata[name] for name in names if name in metadata}


def _average(state: Mapping[str, Any]) -> dict[str, Tensor]:
    saved = state["learner"]["average"]
    return {name.removeprefix(AVERAGE): value for name, value in saved.items() if name.startswith(AVERAGE)}


def _note(history: EarlyStopping, state: Mapping[str, Any], config: TrainingConfig) -> str:
    done, most = len(history.epochs), f"{config.epochs} epochs"
    if not done:
        return f"This run is not finished: its model is that of step {state['step']} of the first of at most {most}."
    return f"This run is not finished: its model is that of epoch {history.best_epoch}, the best of {done} (of at most {most})."
