"""The network and its inputs."""

from __future__ import annotations

from tsa.model.batch import Batch, History
from tsa.model.config import ModelConfig, preset
from tsa.model.network import TSANetwork

__all__ = ["Batch", "History", "ModelConfig", "TSANetwork", "preset"]
