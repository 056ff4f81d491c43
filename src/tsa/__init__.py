"""TSA: Temporal Self-Attention for payment fraud. This module has the public names.

model = tsa.fit(df, label="is_fraud", time="paid_at", id="payment_id", keys=["card", "merchant"])
model.score(new_payments)

The same in steps, with files:

market = tsa.Market.load("markets/demo.toml")
store = tsa.prepare(market, ["payments.parquet"], "store")
tsa.train(store, "run")
report = tsa.evaluate("run")
scores = tsa.Scorer.load("run/bundle").score("payments.parquet")
"""

from __future__ import annotations

import importlib
import os
import typing

if typing.TYPE_CHECKING:
    from tsa.config.market import Market
    from tsa.data.store.prepare import prepare
    from tsa.data.store.store import EventStore
    from tsa.errors import TSAError
    from tsa.estimator import FraudClassifier, fit
    from tsa.evaluation.evaluate import evaluate
    from tsa.inference.scorer import Scorer
    from tsa.registry import Registry
    from tsa.training import TrainingConfig, train

    __version__: str

# Turn off the telemetry of libraries before anything can import them. Child processes inherit it.
# ONNX Runtime reads its variable when it is imported, MLflow and Ray when they are used.
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0"}

_HOME = {
    "EventStore": "tsa.data.store.store",
    "FraudClassifier": "tsa.estimator",
    "Market": "tsa.config.market",
    "Registry": "tsa.registry",
    "Scorer": "tsa.inference.scorer",
    "TSAError": "tsa.errors",
    "TrainingConfig": "tsa.training",
    "evaluate": "tsa.evaluation.evaluate",
    "fit": "tsa.estimator",
    "prepare": "tsa.data.store.prepare",
    "train": "tsa.training",
}

__all__ = [
    "EventStore",
    "FraudClassifier",
    "Market",
    "Registry",
    "Scorer",
    "TSAError",
    "TrainingConfig",
    "evaluate",
    "fit",
    "prepare",
    "train",
]


def __getattr__(name: str) -> typing.Any:
    """Import a public name on first use, so that `tsa prepare` does not wait for PyTorch."""
    if name == "__version__":
        # imported here: it takes 0.1 s, in which the first process of a container would hear no SIGTERM
        from importlib.metadata import version

        return version("tsa-fraud")
    if name not in _HOME:
        raise AttributeError(f"module 'tsa' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
