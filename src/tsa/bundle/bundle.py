"""The bundle: everything that scoring needs, in a folder or one `.tar.gz`, each file hashed in its manifest.

    weights.safetensors   the network's weights
    model.json            ModelConfig
    market.json           the market, resolved
    encoder.json          the fitted encoder
    training.json         how it was trained: settings, sampling rate, rows, versions
    model_card.md         what it is and what it is not for, made from the other files
    calibration.json      from raw scores to percentiles and probabilities
    thresholds.json       what to do with a payment, by one of its scores
    metrics.json          the evaluation: metrics with intervals, by segment; calibration; comparison
    data.json             what became of each row that was read for training, and the time ranges
    model.onnx, model.int8.onnx   the network as graphs for ONNX Runtime, where it was exported
    manifest.json         format version, market fingerprint, size and sha256 of each file, and its own sha256
    signature.json        who vouches for the manifest, where it was signed

Those from calibration.json on may be absent, but for the manifest. Nothing in it can execute. A missing, changed or extra
file is refused by name. It knows neither training nor serving.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from tsa.bundle.archive import write_contents
from tsa.bundle.decisions import Decision, DecisionPolicy
from tsa.bundle.graphs import refuse_outside
from tsa.bundle.manifest import (
    CALIBRATION,
    CARD,
    DATA,
    FILES,
    GRAPHS,
    MANIFEST,
    METRICS,
    OPTIONAL,
    THRESHOLDS,
    WEIGHTS,
    Contents,
    build_manifest,
    to_json,
)
from tsa.bundle.model_card import model_card
from tsa.bundle.signing import read_bundle
from tsa.calibration.calibration import Calibration
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.errors import BundleError, ConfigError, TSAError
from tsa.model import ModelConfig, TSANetwork

UNREADABLE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError),
    *(SafetensorError, TSAError),
)
"""What comes of files that are whole, but were not written by this program."""

__all__ = ["CALIBRATION", "FILES", "GRAPHS", "MANIFEST", "OPTIONAL", "Bundle"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A network in evaluation mode, with the market and encoder that make its input."""

    market: Market
    encoder: Encoder
    config: ModelConfig
    network: TSANetwork
    training: Mapping[str, Any]
    calibration: Calibration | None = None
    thresholds: DecisionPolicy | None = None
    metrics: Mapping[str, Any] | None = None
    """The evaluation, as plain values: `evaluation`, `calibration`, `comparison` of report.json."""
    data: Mapping[str, Any] | None = None
    """The account of the rows that were read, with the time ranges."""
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    """The network as ONNX graphs, by precision, where it was exported (`tsa.inference.onnx_export`)."""
    sha256: str | None = None
    """What the manifest was sealed with, of a bundle that was opened: which bundle this is, to the byte."""

    @property
    def lengths(self) -> dict[str, int]:
        """Events of each history, the current one included, by the names that the network knows them by."""
        return dict(zip(self.config.histories, (history.length for history in self.market.history), strict=True))

    def save(self, path: Path) -> None:
        """Write the bundle as the folder `path`, or as one file where that ends in .tar.gz, whole or not at all.

        A bundle that stands there is replaced; if it was signed, the signature is gone with it.
        """
        write_contents(self.contents(), path)

    def contents(self) -> dict[str, bytes]:
        """The files by name, sealed."""
        files = {
            WEIGHTS: weights_of(self.network),
            "model.json": to_json(self.config.to_dict()),
            "market.json": to_json(self.market.to_dict()),
            "encoder.json": to_json(self.encoder.to_dict()),
            "training.json": to_json(self.training),
            CARD: model_card(self).encode(),
            **{GRAPHS[precision]: graph for precision, graph in self.graphs.items()},
        }
        optional = {
            CALIBRATION: None if self.calibration is None else self.calibration.to_dict(),
            THRESHOLDS: None if self.thresholds is None else self.thresholds.to_dict(),
            METRICS: self.metrics,
            DATA: self.data,
        }
        files |= {name: to_json(value) for name, value in optional.items() if value is not None}
        facts = {"market_fingerprint": self.market.fingerprint, "torch": str(torch.__version__)}
        return {**files, MANIFEST: build_manifest(files, facts)}

    @classmethod
    def open(cls, path: str | Path, *, key: bytes | None = None) -> Bundle:
        """Read and check a bundle. BundleError names the file that is missing, extra, changed or cannot be read.

        key: a public key (PEM): a bundle that was not signed with its private one is refused.
        """
        contents, manifest = read_bundle(Path(path), key)
        with _unreadable_is_refused(path):
            bundle = cls(**_parts(contents), sha256=manifest["sha256"])
            bundle.check()
        return bundle

    def check(self) -> None:
        """Raise MarketError, BundleError where its parts, each sound by itself, are not of one model, or a graph needs other
        files."""
        for precision, graph in self.graphs.items():
            refuse_outside(graph, GRAPHS[precision])
        self.encoder.check_market(self.market)
        config, columns = self.config, self.encoder.columns
        pairs: dict[str, tuple[Any, Any]] = {
            "histories": (len(config.histories), len(self.market.history)),
            **{f"n_{kind}": (getattr(config, f"n_{kind}"), len(names)) for kind, names in columns.items()},
        }
        for name, (size, wanted) in pairs.items():
            if size != wanted:
                raise BundleError(f"model.json: {name} must be {wanted} as in market and encoder (got {size})")
        last = config.n_embedding - config.n_numerical
        if self.encoder.n_rows - 1 > last:
            raise BundleError(f"encoder.json must know at most {last} rows (got {self.encoder.n_rows - 1})")


def weights_of(network: TSANetwork) -> bytes:
    """The weights' file of a network, to the byte."""
    return save({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()})


def _parts(contents: Contents) -> dict[str, Any]:
    """What the files hold, by field of Bundle."""

    def read(name: str) -> Any:
        return json.loads(contents[name]) if name in contents else None

    config = ModelConfig.from_dict(read("model.json"))
    _refuse_larger(config, len(contents[WEIGHTS]))
    network = TSANetwork(config)
    network.load_state_dict(load(contents[WEIGHTS]))
    calibration, thresholds = read(CALIBRATION), read(THRESHOLDS)
    return {
        "market": Market.from_dict(read("market.json")),
        "encoder": Encoder.from_dict(read("encoder.json")),
        "config": config,
        "network": network.eval(),
        "training": read("training.json"),
        "calibration": None if calibration is None else Calibration.from_dict(calibration),
        "thresholds": None if thresholds is None else DecisionPolicy.from_dict(thresholds),
        "metrics": read(METRICS),
        "data": read(DATA),
        "graphs": {precision: contents[name] for precision, name in GRAPHS.items() if name in contents},
    }


def _refuse_larger(config: ModelConfig, n_bytes: int) -> None:
    """BundleError, before memory is taken for it, for a network of more numbers than its weights have bytes."""
    with torch.device("meta"):
        numbers = sum(value.numel() for value in TSANetwork(config).state_dict().values())
    if numbers > n_bytes:
        rule = f"model.json must be of a network that {WEIGHTS} can hold"
        raise BundleError(f"{rule} (got {numbers:,} numbers, {n_bytes:,} bytes)")


@contextmanager
def _unreadable_is_refused(path: str | Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise BundleError(f"{path} cannot be read: {error}") from error


def set_decision_policy(path: Path, texts: Sequence[str], *, score: str, otherwise: str = "accept") -> DecisionPolicy:
    """Write decisions, `NAME=LIMIT` each, into the bundle at `path`, which is sealed anew.

    ConfigError for decisions that are none, or by a score that the bundle is not calibrated for.
    """
    bundle = Bundle.open(path)
    made = DecisionPolicy(score=score, decisions=tuple(map(_decision, texts)), default=otherwise)
    calibration = bundle.calibration
    if score != "raw_score" and (calibration is None or getattr(calibration, score) is None):
        raise ConfigError(f"thresholds: decisions go by {score}, but the bundle is not calibrated for it")
    replace(bundle, thresholds=made).save(path)
    return made


def _decision(text: str) -> Decision:
    name, _, limit = text.partition("=")
    try:
        return Decision(name.strip(), float(limit))
    except ValueError:
        raise ConfigError(f"a decision must be NAME=LIMIT, such as review=0.98 (got {text!r})") from None
