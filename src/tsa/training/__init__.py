"""Training: from a store to a run folder with a bundle."""

from tsa.training.config import TrainingConfig
from tsa.training.ending.time_limit import TimeLimit
from tsa.training.refitting import refit
from tsa.training.train_model import train

__all__ = ["TimeLimit", "TrainingConfig", "refit", "train"]
