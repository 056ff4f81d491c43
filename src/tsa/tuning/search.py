"""What a search for settings is made of, and the folder that is its own. How it goes is in tune.py."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.files.outputs import check_folder
from tsa.files.writing import write_json
from tsa.training.config import TrainingConfig
from tsa.training.run_folder import content_of, is_side_file
from tsa.training.train_model import network_settings
from tsa.trees import differences
from tsa.tuning.space import SECTIONS, Space

Settings = dict[str, Any]
"""Values by `training.KEY` and `model.KEY`."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched: on which store, from which preset and settings, in which space. ConfigError where that cannot be."""

    store: EventStore
    preset: str = "default"
    fixed: Settings = field(default_factory=dict)
    space: Space = field(default_factory=Space.read)
    seed: int = 0

    def __post_init__(self) -> None:
        if judge := sorted({"training.monitor", "training.monitor_mode"} & set(self.space.entries)):
            raise ConfigError(f"what trials are compared by must be the same for all, but {judge[0]} is searched")
        if both := sorted(set(self.fixed) & set(self.space.entries)):
            raise ConfigError(f"a setting is either set or searched, but {', '.join(both)} is both")
        self.build_config({})
        for key, entry in self.space.entries.items():
            for value in entry.bounds:
                try:
                    self.build_config({key: value})
                except ConfigError as error:
                    raise ConfigError(f"space: {key}: {error}") from None

    def build_config(self, chosen: Settings) -> tuple[TrainingConfig, Settings]:
        """The training and the model's settings with `chosen` on top. ConfigError where they are refused."""
        rooms: dict[str, Settings] = {room: {} for room in SECTIONS}
        for key, value in {**self.fixed, **chosen}.items():
            room, _, name = key.partition(".")
            rooms[room][name] = value
        network_settings(self.store, self.preset, rooms["model"])
        training = TrainingConfig.make(rooms["training"])
        if not training.early_stopping:
            raise ConfigError("a search goes by the best epoch, it needs training.early_stopping, but it is off")
        return training, rooms["model"]

    @property
    def metric(self) -> str:
        """What each epoch is judged by."""
        return self.build_config({})[0].monitor

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher `metric` is better."""
        return self.build_config({})[0].higher_is_better

    @property
    def default_settings(self) -> Settings:
        """The settings as they are without a search, so far as they lie in the space."""
        training, model = self.build_config({})
        config = network_settings(self.store, self.preset, model)
        values = {f"training.{name}": value for name, value in training} | {
            f"model.{name}": value for name, value in config.to_dict().items()
        }
        return {key: values[key] for key, entry in self.space.entries.items() if entry.contains(values[key])}

    def account(self) -> dict[str, Any]:
        """What makes two searches the same."""
        rest = {"preset": self.preset, "fixed": self.fixed, "space": self.space.to_dict(), "seed": self.seed}
        account: dict[str, Any] = json.loads(json.dumps({"store": content_of(self.store), **rest}))
        return account


def acquire_folder(search: Search, out: Path) -> None:
    """Make `out` the folder of this search. ConfigError where it holds other things, or a search that differs."""
    check_folder(out, "a search", "search.json", is_side_file)
    account, kept = search.account(), out / "search.json"
    if not kept.is_file():
        write_json(kept, account)
    before = json.loads(kept.read_text(encoding="utf-8"))
    if lines := list(differences(before, account)):
        found = "; ".join(lines)
        raise ConfigError(f"{out} must hold a search of the same things to go on, however (there, here): {found}")


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Hold the folder against another search; the hold ends with the process."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{out} must not be searched twice at once, but another search is at work") from None
        yield
