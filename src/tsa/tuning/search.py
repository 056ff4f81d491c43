"""A hyper-parameter search: store, preset, search space, and its folder. `tsa.tuning.tune` runs it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.files.outputs import check_folder
from tsa.files.writing import write_json
from tsa.scale.shared_store import SharedStore
from tsa.training.config import TrainingConfig
from tsa.training.run_folder import content_of, is_side_file
from tsa.training.train_model import network_settings
from tsa.tuning.space import SECTIONS, Space
from tsa.value_differences import differences

Settings = dict[str, Any]
"""Values by `training.KEY` and `model.KEY`."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """The store, preset, fixed settings and space of a search.

    Raises:
        ConfigError: If the space has invalid values, or settings that must not vary.
    """

    store: EventStore
    preset: str = "default"
    fixed: Settings = field(default_factory=dict)
    space: Space = field(default_factory=Space.read)
    seed: int = 0
    round: int = 1
    """So many trials are chosen at a time, from the results of earlier rounds, and may be trained at the same time."""

    def __post_init__(self) -> None:
        if self.round < 1:
            raise ConfigError(f"round must be at least 1 (got {self.round})")
        if fixed := sorted({"training.monitor", "training.monitor_mode"} & set(self.space.entries)):
            raise ConfigError(f"the space must not contain {fixed[0]}: trials are compared by it")
        if repeated := sorted(set(self.fixed) & set(self.space.entries)):
            raise ConfigError(f"a setting must be either set or searched (got both for {', '.join(repeated)})")
        self.build_config({})
        for key, entry in self.space.entries.items():
            for value in entry.bounds:
                try:
                    self.build_config({key: value})
                except ConfigError as error:
                    raise ConfigError(f"space: {key}: {error}") from None

    def build_config(self, chosen: Settings) -> tuple[TrainingConfig, Settings]:
        """The training and model settings with `chosen` on top. Raises ConfigError if they break a rule."""
        sections: dict[str, Settings] = {section: {} for section in SECTIONS}
        for key, value in {**self.fixed, **chosen}.items():
            section, _, name = key.partition(".")
            sections[section][name] = value
        network_settings(self.store, self.preset, sections["model"])
        training = TrainingConfig.make(sections["training"])
        if not training.early_stopping:
            raise ConfigError("training.early_stopping must be on for a search, which compares best epochs (got false)")
        return training, sections["model"]

    @property
    def metric(self) -> str:
        """The metric that trials are compared by."""
        return self.build_config({})[0].monitor

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher `metric` is better."""
        return self.build_config({})[0].higher_is_better

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """As Optuna calls it."""
        return "maximize" if self.higher_is_better else "minimize"

    @property
    def default_settings(self) -> Settings:
        """The settings without a search, as far as they are in the space."""
        training, model = self.build_config({})
        config = network_settings(self.store, self.preset, model)
        values = {f"training.{name}": value for name, value in training} | {
            f"model.{name}": value for name, value in config.to_dict().items()
        }
        return {key: values[key] for key, entry in self.space.entries.items() if entry.contains(values[key])}

    def metadata(self) -> dict[str, Any]:
        """The identity of the search, as JSON values."""
        given = {name: getattr(self, name) for name in ("preset", "fixed", "seed", "round")}
        made = {"store": content_of(self.store), **given, "space": self.space.to_dict()}
        metadata: dict[str, Any] = json.loads(json.dumps(made))
        return metadata


@dataclass(frozen=True, kw_only=True)
class SharedSearch:
    """A search as a worker of a cluster gets it: the worker opens the store itself."""

    store: SharedStore
    preset: str
    fixed: Settings
    space: Space

    @classmethod
    def of(cls, search: Search) -> Self:
        """What a worker needs of a search."""
        return cls(store=SharedStore.of(search.store), preset=search.preset, fixed=search.fixed, space=search.space)

    def open(self) -> Search:
        """The search, in a worker. Raises ClusterError if its node does not see the store."""
        return Search(store=self.store.open(), preset=self.preset, fixed=self.fixed, space=self.space)


def acquire_folder(search: Search, out: Path) -> None:
    """Make `out` the folder of this search. Raises ConfigError if it has other content or another search."""
    check_folder(out, "a search", "search.json", is_side_file)
    metadata, file = search.metadata(), out / "search.json"
    if not file.is_file():
        write_json(file, metadata)
    before = json.loads(file.read_text(encoding="utf-8"))
    if lines := list(differences(before, metadata)):
        differing = "; ".join(lines)
        raise ConfigError(f"{out} holds another search (that search, then this: {differing}); choose another folder")
