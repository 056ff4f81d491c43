"""`Recipe`: how a finished run was trained, and for how long, so that it can be trained again on other payments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsa.bundle.bundle import Bundle
from tsa.config.split import SPLITS
from tsa.errors import ConfigError
from tsa.training.config import TrainingConfig
from tsa.training.model_config import chosen_settings
from tsa.training.run_folder import BUNDLE, read_run_metadata

LEARNED = SPLITS[:3]
"""The ranges that a refitted run learns from."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a finished run was trained, and for how long."""

    run: str
    weights: str
    """The hash of its weights."""
    preset: str
    model: Mapping[str, Any]
    """Settings of the model that differ from the preset, and its form (`parts`)."""
    training: TrainingConfig
    """With the epochs of its best epoch and the number of its trees, and without early stopping."""

    @classmethod
    def of(cls, run: str | Path) -> Recipe:
        """Read it from a finished run. Its store is not needed.

        Raises:
            ConfigError: If `run` is no finished run.
            BundleError: If its bundle cannot be read.
        """
        metadata, bundle = _opened(Path(run))
        return cls.from_bundle(bundle, metadata, Path(run).resolve().name)

    @classmethod
    def from_bundle(cls, bundle: Bundle, metadata: Mapping[str, Any], run: str) -> Recipe:
        """The recipe of a bundle with the metadata of its run."""
        members = bundle.config.n_tree_ensemble
        changes = {
            "epochs": max(1, int(metadata.get("best_epoch") or metadata["training"]["epochs"])),
            "early_stopping": False,
            "n_trees": None if bundle.trees is None else max(1, round(bundle.trees.trees.n_trees / members)),
            "n_deep_trees": None if bundle.trees is None else bundle.trees.n_deep,
            "train_on": LEARNED,
        }
        preset = metadata["preset"]
        return cls(
            run=run,
            weights=bundle.model_sha256,
            preset=preset,
            # the run compared the forms on payments that a refit learns from, so its form stays
            model={**chosen_settings(bundle.config, preset, bundle.market, bundle.encoder), "parts": _form(bundle)},
            training=TrainingConfig.make({**metadata["training"], **changes}),
        )

    def training_without(self, name: str) -> TrainingConfig:
        """The settings of the model that does not learn from a range."""
        return self.training.model_copy(update={"train_on": tuple(other for other in LEARNED if other != name)})


def _form(bundle: Bundle) -> str:
    parts = bundle.joining.parts
    return parts[0] if len(parts) == 1 else "combined"


def _opened(run: Path) -> tuple[dict[str, Any], Bundle]:
    metadata = read_run_metadata(run)
    if not metadata:
        raise ConfigError(f"{run} is not a run folder: give the folder that tsa train or tsa run wrote")
    if "finished" not in metadata:
        raise ConfigError(f"the run {run} is not finished: finish it with tsa train STORE --out {run} --resume")
    return metadata, Bundle.open(run / BUNDLE)
