"""Train again on a log that has grown, and promote the new model if it is good enough. Start with `retrain`."""

from __future__ import annotations

from tsa.retraining.publishing import Retrained
from tsa.retraining.retrain import retrain

__all__ = ["Retrained", "retrain"]
