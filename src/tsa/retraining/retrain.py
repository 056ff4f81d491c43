"""One round: append, train, evaluate candidate and champion on the same payments, judge, publish, promote.

Every step is either done already or is done again: a round that was killed continues with the same call, and a round that is
finished does nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsa.bundle.bundle import Bundle
from tsa.bundle.signing import sign
from tsa.config.market import Market
from tsa.config.promotion import Promotion
from tsa.data.log.quarantine import QuarantineLike
from tsa.data.store.append import append
from tsa.data.store.manifest import MANIFEST
from tsa.data.store.prepare import Logs, log_names, prepare
from tsa.data.store.store import EventStore
from tsa.data.store.summary import refuse_unmeasured
from tsa.errors import ConfigError
from tsa.evaluation.promotion.gate import apply_gate
from tsa.evaluation.promotion.pair import measure_pair
from tsa.evaluation.report.thresholds import measured_scores
from tsa.evaluation.trained_run import TrainedRun
from tsa.files.locking import used_alone
from tsa.files.writing import read_json, sha256_of, write_json
from tsa.progress import Progress, silent
from tsa.registry import Registry
from tsa.retraining.champion_settings import carry_over
from tsa.retraining.page import write_page
from tsa.retraining.publishing import Aliases, Retrained, published, result_of
from tsa.training.config import TrainingConfig
from tsa.training.evaluate_and_bundle import measure_trained
from tsa.training.refitting import refit as train_again
from tsa.training.train_model import train_network

logger = logging.getLogger(__name__)

GATE = "gate.json"


def retrain(
    market: Market,
    store: str | Path,
    registry: str,
    logs: Logs = (),
    *,
    outcomes: Logs = (),
    out: str | Path | None = None,
    preset: str = "default",
    model: Mapping[str, Any] | None = None,
    training: TrainingConfig | None = None,
    quarantine: QuarantineLike = None,
    keep_encoder: bool = False,
    refit: bool = False,
    champion: str = "champion",
    challenger: str = "challenger",
    promote: bool = False,
    by: str = "tsa retrain",
    signing_key: bytes | None = None,
    progress: Progress = silent,
) -> Retrained:
    """Train a candidate on a store, after appending new logs, and compare it with the champion of a registry.

    Args:
        market: The market, with the rules of the gate in `[promotion]`.
        store: The store; it is prepared from the logs if there is none.
        registry: The URL of the registry.
        logs: Logs to append.
        outcomes: Files of outcomes to append.
        out: The folder for runs; by default next to the store, `NAME-retrain`.
        preset: A preset of the network.
        model: Settings of the network that differ from the preset.
        training: The training settings; None: the defaults.
        quarantine: A file for rows of the logs that break a rule.
        keep_encoder: Encode as before. Otherwise the encoder is fitted on the new training rows.
        refit: The candidate is the model of the run, trained again on all outcomes known when the test range begins.
        champion: The alias of the model in use.
        challenger: The alias that the candidate gets in any case.
        promote: Let `champion` name the candidate if it passes the gate.
        by: Who does this, for the registry.
        signing_key: PEM of a private key, to sign the bundle.
        progress: Reports long work.

    Raises:
        ConfigError: If another round uses the folder, or the champion reads payments otherwise.
        DataError, StoreError: If the logs cannot be appended.
        RegistryError: If the registry cannot be reached, or somebody else moved an alias at the same time.
    """
    folder = Path(out) if out is not None else Path(store).with_name(f"{Path(store).name}-retrain")
    aliases = Aliases(
        registry=Registry.open(registry),
        champion=champion,
        challenger=challenger,
        by=by,
        promote=promote,
        signing_key=signing_key,
    )
    config = training or TrainingConfig()
    with used_alone(folder, "tsa retrain"):
        opened = _grown(
            market, Path(store), log_names(logs), log_names(outcomes), quarantine, progress, keep_encoder=keep_encoder
        )
        refuse_unmeasured(opened)
        key = _key(opened, preset, model or {}, config)
        run = _trained(opened, folder / f"run-{key}", preset, model or {}, config, progress, refit=refit)
        return _judged(run, market.promotion or Promotion(), aliases, progress)


def _grown(
    market: Market,
    store: Path,
    logs: Sequence[str],
    outcomes: Sequence[str],
    quarantine: QuarantineLike,
    progress: Progress,
    *,
    keep_encoder: bool,
) -> EventStore:
    """The store with the new logs."""
    if not (store / MANIFEST).is_file():
        if not logs:
            raise ConfigError(f"--store must be a store, or logs must be given to make it of (got {store}, no logs)")
        prepare(market, logs, store, quarantine=quarantine, progress=progress)
        logs = []
    if logs or outcomes:
        added = append(
            store,
            logs,
            outcomes=outcomes,
            market=market,
            quarantine=quarantine,
            refit_encoder=not keep_encoder,
            progress=progress,
        )
        logger.info("%d events and %d outcomes are new", added.payments, added.outcomes)
    return EventStore.open(store, market)


def _key(store: EventStore, preset: str, model: Mapping[str, Any], config: TrainingConfig) -> str:
    """Names the run: the same store and settings are the same run."""
    parts = [sha256_of(store.path / MANIFEST), preset, dict(model), config.model_dump(mode="json")]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _trained(
    store: EventStore,
    out: Path,
    preset: str,
    model: Mapping[str, Any],
    config: TrainingConfig,
    progress: Progress,
    *,
    refit: bool,
) -> TrainedRun:
    """The run, trained and evaluated. What a killed round has done is not done again."""
    settings: dict[str, Any] = {"preset": preset, "model": model, "training": config, "with_bundle": refit}
    trained = train_network(store, out, progress=progress, resume=True, **settings)
    if refit:
        first, out = out, out.with_name(f"{out.name}-refit")
        trained = train_again(first, out, store=store, progress=progress, resume=True, with_bundle=False)
    has_report = (out / "report.json").is_file() and (out / "scores.parquet").is_file()
    if not (trained.is_written and trained.bundle.metrics is not None and has_report):
        measure_trained(trained, comparison=False, progress=progress)
    return TrainedRun.open(out)


def _judged(run: TrainedRun, rules: Promotion, aliases: Aliases, progress: Progress) -> Retrained:
    registry = aliases.registry
    current = registry.aliases().get(aliases.champion)
    own = _sha(run.path / "bundle")
    if current is not None and current.sha256 == own and (run.path / GATE).is_file():
        made = read_json(run.path / GATE, ConfigError)
        summary = f"{own[:12]} is the {aliases.champion} already; nothing is new"
        return result_of(run, made, promoted=True, summary=summary)
    champion = None if current is None else _pulled(registry, aliases.champion)
    if champion is not None and champion.sha256 != own:
        carry_over(run, champion, progress)
    if aliases.signing_key is not None:
        sign(run.path / "bundle", aliases.signing_key)
    run = TrainedRun.open(run.path)
    made = _gate(run, champion, rules, progress)
    return published(run, made, aliases)


def _sha(bundle: Path) -> str:
    sha = Bundle.open(bundle).sha256
    assert sha is not None
    return sha


def _pulled(registry: Registry, alias: str) -> Bundle:
    with tempfile.TemporaryDirectory(prefix="tsa-champion-") as name:
        registry.pull(alias, Path(name) / "bundle")
        return Bundle.open(Path(name) / "bundle")


def _gate(run: TrainedRun, champion: Bundle | None, rules: Promotion, progress: Progress) -> dict[str, Any]:
    """The gate's report, made once for the same candidate, champion and rules."""
    asked = {
        "of": run.scorer.bundle.sha256,
        "against": None if champion is None else champion.sha256,
        "by": rules.model_dump(mode="json"),
    }
    path = run.path / GATE
    if path.is_file():
        made = read_json(path, ConfigError)
        if made.get("asked") == asked:
            return made
    scores = measured_scores(run)["raw_score"].to_numpy().astype(np.float64)
    made = {**apply_gate(measure_pair(run, champion, scores, progress), rules), "asked": asked}
    write_page(run, made)
    write_json(path, made)
    return made
