"""What a SageMaker training job is configured with: hyperparameters, channels, hosts and folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from tsa.config.overrides import Overrides
from tsa.data.store.manifest import MANIFEST
from tsa.errors import ConfigError
from tsa.files.writing import read_json

OWN = ("market", "preset", "evaluate", "processes_per_host")
"""Hyperparameters that this module reads; all others except SageMaker's are settings."""
SAGEMAKERS = ("sagemaker_", "_tuning_objective_metric")
"""Prefixes of SageMaker's hyperparameters."""
CHANNEL = "SM_CHANNEL_"


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """The configuration of a training job: hyperparameters, channels, hosts and folders."""

    base: Path
    hyperparameters: Mapping[str, str]
    channels: Mapping[str, Path]
    host: str
    hosts: tuple[str, ...]
    network_interface: str | None
    model: Path
    output: Path

    @classmethod
    def read(cls, base: Path) -> Self:
        """Read the job's configuration. Raises ConfigError if it is invalid."""
        resources = _read(base, "resourceconfig")
        hosts = tuple(sorted(resources.get("hosts", ["localhost"])))
        return cls(
            base=base,
            hyperparameters={name: _text(value) for name, value in _read(base, "hyperparameters").items()},
            channels=_channels(base, several_hosts=len(hosts) > 1),
            host=resources.get("current_host", hosts[0]),
            hosts=hosts,
            network_interface=resources.get("network_interface_name"),
            model=Path(os.environ.get("SM_MODEL_DIR", base / "model")),
            output=Path(os.environ.get("SM_OUTPUT_DATA_DIR", base / "output" / "data")),
        )

    def own(self, name: str, default: str) -> str:
        """A hyperparameter of OWN. The SDK writes texts as JSON, with quotes; the console does not."""
        given = self.hyperparameters.get(name, default)
        return str(json.loads(given)) if given.startswith('"') else given

    @property
    def store(self) -> Path | None:
        """The channel that contains a store, if any."""
        return next((path for path in self.channels.values() if (path / MANIFEST).is_file()), None)

    @property
    def settings(self) -> Overrides:
        """The settings, with the market unless there is a store, which contains one."""
        texts = [
            f"{name}={value}"
            for name, value in self.hyperparameters.items()
            if name not in OWN and not name.startswith(SAGEMAKERS)
        ]
        return Overrides.read(texts, None if self.store else self._market())

    def _market(self) -> Path:
        """The market file: a path, or a file name in one of the channels. Raises ConfigError if there is none."""
        name = self.own("market", "market.toml")
        for folder in (Path(), *self.channels.values()):
            if (folder / name).is_file():
                return folder / name
        raise ConfigError(f"market must name a file in a channel ({', '.join(self.channels)}) (got {name!r})")

    def logs(self) -> Path:
        """The channel with the payment logs. Raises ConfigError if there is none."""
        for name in ("training", "train"):
            if name in self.channels:
                return self.channels[name]
        names = ", ".join(self.channels) or "none"
        raise ConfigError(f"a job needs a channel with a store, or one named training with logs (got {names})")

    @property
    def processes(self) -> int:
        """Processes on each host; default: one per GPU, at least one."""
        given = self.own("processes_per_host", "")
        if not given:
            return max(1, torch.cuda.device_count())
        if not given.isdecimal() or int(given) < 1:
            raise ConfigError(f"processes_per_host must be a whole number of at least 1 (got {given!r})")
        return int(given)


def _read(base: Path, name: str) -> dict[str, Any]:
    """Read a file of input/config; an empty dict if there is none."""
    path = base / "input" / "config" / f"{name}.json"
    return read_json(path, ConfigError) if path.exists() else {}


def _text(value: Any) -> str:
    """A hyperparameter as text; in SageMaker's local mode it may be a parsed value."""
    return value if isinstance(value, str) else json.dumps(value)


def _channels(base: Path, *, several_hosts: bool) -> dict[str, Path]:
    """The folder of each channel, from the configuration file or the environment.

    Raises:
        ConfigError: a channel does not exist, or is not the same on all hosts.
    """
    configs: dict[str, Any] = _read(base, "inputdataconfig")
    known = {name.upper() for name in configs}
    alone = [name.removeprefix(CHANNEL) for name in sorted(os.environ) if name.startswith(CHANNEL)]
    configs |= {name.lower(): {} for name in alone if name not in known}
    folders = {}
    for name, config in configs.items():
        path = Path(os.environ.get(f"{CHANNEL}{name.upper()}", base / "input" / "data" / name))
        if not path.is_dir():
            mode = config.get("TrainingInputMode")
            raise ConfigError(f"channel {name} must be a folder (mode File or FastFile) (got {path}, mode {mode})")
        if several_hosts and config.get("S3DistributionType") == "ShardedByS3Key":
            raise ConfigError(f"channel {name} must be FullyReplicated with several hosts (got ShardedByS3Key)")
        folders[name] = path
    return folders
