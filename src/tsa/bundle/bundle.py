"""The bundle: everything that scoring needs, in a folder or one `.tar.gz`, with hashes of all files in its manifest.

    weights.safetensors   the network's weights
    model.json            ModelConfig
    market.json           the market, resolved
    encoder.json          the fitted encoder
    training.json         how it was trained: settings, sampling rate, rows, versions
    model_card.md         intended use and limits, generated from the other files
    calibration.json      maps from raw scores to percentiles and probabilities
    thresholds.json       decisions by one of the scores
    metrics.json          the evaluation: metrics with intervals, by segment; calibration; comparison
    data.json             counts of the rows read for training (used, excluded, ...), and the time ranges
    trees.txt             the boosted trees, in LightGBM's text format, if the model has them
    parts.json            the columns of the trees, how network and trees are joined, and why
    model.onnx, model.int8.onnx   the network as graphs for ONNX Runtime, if it was exported
    trees.onnx            the trees as a graph, for other programs, if they were exported
    manifest.json         format version, market fingerprint, size and sha256 of each file, and its own sha256
    signature.json        the signature of the manifest, if it was signed

Files from calibration.json on are optional, except the manifest. A bundle contains no executable code. A missing,
changed or extra file is rejected by name.
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
    PARTS,
    THRESHOLDS,
    TREES,
    WEIGHTS,
    Contents,
    build_manifest,
    sha256,
    to_json,
)
from tsa.bundle.model_card import model_card
from tsa.bundle.signing import read_bundle
from tsa.calibration.calibration import Calibration
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.key_roles import compared_keys
from tsa.errors import BundleError, ConfigError, TSAError
from tsa.model import ModelConfig, TSANetwork
from tsa.model.network_and_trees import ALONE, Joining
from tsa.model.tree_model import TreeModel

UNREADABLE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError),
    *(SafetensorError, TSAError),
)
"""Exceptions for intact files that this program did not write."""
PARTS_VERSION = 1

__all__ = ["CALIBRATION", "FILES", "GRAPHS", "MANIFEST", "OPTIONAL", "Bundle"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A network in evaluation mode and boosted trees, with the market and encoder that make their input."""

    market: Market
    encoder: Encoder
    config: ModelConfig
    network: TSANetwork
    training: Mapping[str, Any]
    trees: TreeModel | None = None
    joining: Joining = ALONE["network"]
    """How the log odds of network and trees are joined."""
    choice: Mapping[str, Any] = field(default_factory=dict)
    """Why they are joined so: what was measured on payments that neither has learned from."""
    calibration: Calibration | None = None
    thresholds: DecisionPolicy | None = None
    metrics: Mapping[str, Any] | None = None
    """The evaluation, as plain values: `evaluation`, `calibration`, `comparison` of report.json."""
    data: Mapping[str, Any] | None = None
    """Counts of the rows that were read, with the time ranges."""
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    """ONNX graphs, if the model was exported: the network by precision (`tsa.inference.onnx_export`), and "trees"."""
    sha256: str | None = None
    """The sha256 in the manifest of an opened bundle; it identifies the bundle to the byte."""

    @property
    def lengths(self) -> dict[str, int]:
        """Events of each history, including the current one, by the network's names for the histories."""
        return dict(zip(self.config.histories, (history.length for history in self.market.views), strict=True))

    @property
    def visible_lengths(self) -> dict[str, int]:
        """Events of each history that a score depends on, including the current one, by the market's names."""
        reads_trees = self.trees is not None and "trees" in self.joining.parts
        least = self.trees.columns.aggregates.history_length if self.trees is not None and reads_trees else 0
        assert least is not None  # `check`
        return {history.name: max(history.length, least) for history in self.market.history}

    @property
    def model_sha256(self) -> str:
        """Identifies what raw scores are computed with; for a network alone, the sha256 of its weights file."""
        weights = weights_of(self.network)
        if self.trees is None:
            return sha256(weights)
        return sha256(b"".join((weights, self.trees.trees.text.encode(), to_json(self._parts_table()))))

    def _parts_table(self) -> dict[str, Any]:
        assert self.trees is not None
        joined = {"joining": self.joining.to_dict(), "choice": dict(self.choice)}
        return {"version": PARTS_VERSION, "trees": self.trees.to_dict(), **joined}

    def save(self, path: str | Path) -> None:
        """Write the bundle atomically as the folder `path`, or as one file if `path` ends in .tar.gz.

        A bundle that exists there is replaced, including its signature.
        """
        write_contents(self.contents(), Path(path))

    def contents(self) -> dict[str, bytes]:
        """The files by name, with the manifest."""
        files = {
            WEIGHTS: weights_of(self.network),
            "model.json": to_json(self.config.to_dict()),
            "market.json": to_json(self.market.to_dict()),
            "encoder.json": to_json(self.encoder.to_dict()),
            "training.json": to_json(self.training),
            CARD: model_card(self).encode(),
            **{GRAPHS[precision]: graph for precision, graph in self.graphs.items()},
            **({} if self.trees is None else {TREES: self.trees.trees.text.encode()}),
        }
        optional = {
            CALIBRATION: None if self.calibration is None else self.calibration.to_dict(),
            THRESHOLDS: None if self.thresholds is None else self.thresholds.to_dict(),
            METRICS: self.metrics,
            DATA: self.data,
            PARTS: None if self.trees is None else self._parts_table(),
        }
        files |= {name: to_json(value) for name, value in optional.items() if value is not None}
        facts = {"market_fingerprint": self.market.fingerprint, "torch": str(torch.__version__)}
        return {**files, MANIFEST: build_manifest(files, facts)}

    @classmethod
    def open(cls, path: str | Path, *, key: bytes | None = None) -> Bundle:
        """Read and check a bundle.

        Args:
            path: A folder or a .tar.gz.
            key: A public key (PEM): the bundle must be signed with its private key.

        Raises:
            BundleError: Names the file that is missing, extra, changed or cannot be read.
        """
        contents, manifest = read_bundle(Path(path), key)
        with _unreadable_is_refused(path):
            bundle = cls(**_parts(contents), sha256=manifest["sha256"])
            bundle.check()
        return bundle

    def check(self) -> None:
        """Check that the parts belong to one model.

        Raises:
            MarketError, BundleError: If they do not, or a graph needs other files.
        """
        for precision, graph in self.graphs.items():
            refuse_outside(graph, GRAPHS[precision])
        self.encoder.check_market(self.market)
        if self.trees is not None:
            self.trees.columns.check(self.market, self.encoder)
            if self.trees.columns.aggregates.history_length is None:
                raise BundleError(f"{PARTS}: aggregates must have a history_length (got none, for all events)")
        elif "trees" in self.joining.parts:
            raise BundleError(f"{PARTS}: a model of trees must have {TREES} (got none)")
        config, columns = self.config, self.encoder.columns
        pairs: dict[str, tuple[Any, Any]] = {
            "histories": (len(config.histories), len(self.market.views)),
            **{f"n_{kind}": (getattr(config, f"n_{kind}"), len(names)) for kind, names in columns.items()},
        }
        for name, (size, expected) in pairs.items():
            if size != expected:
                raise BundleError(f"model.json: {name} must be {expected} as in market and encoder (got {size})")
        if config.n_match_keys not in (0, n_keys := len(compared_keys(self.market))):
            raise BundleError(f"model.json: n_match_keys must be 0 or {n_keys} (got {config.n_match_keys})")
        last = config.n_embedding - config.n_numerical
        if self.encoder.n_rows - 1 > last:
            raise BundleError(f"encoder.json must have at most {last} rows (got {self.encoder.n_rows - 1})")


def weights_of(network: TSANetwork) -> bytes:
    """The bytes of the weights file of a network."""
    return save({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()})


def _parts(contents: Contents) -> dict[str, Any]:
    """The contents of the files, by field of Bundle."""

    def read(name: str) -> Any:
        return json.loads(contents[name]) if name in contents else None

    config = ModelConfig.make(read("model.json"))
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
        **_trees_of(contents),
    }


def _trees_of(contents: Contents) -> dict[str, Any]:
    """The trees and how they are joined with the network; nothing for a network alone."""
    if TREES not in contents and PARTS not in contents:
        return {}
    table = json.loads(contents[PARTS])
    if table["version"] != PARTS_VERSION:
        raise BundleError(f"{PARTS}: this program reads version {PARTS_VERSION} (got {table['version']!r})")
    return {
        "trees": TreeModel.read(contents[TREES].decode(), table["trees"]),
        "joining": Joining.from_dict(table["joining"]),
        "choice": table["choice"],
    }


def _refuse_larger(config: ModelConfig, n_bytes: int) -> None:
    """Raise BundleError, before memory is allocated, for a network with more numbers than its weights have bytes."""
    with torch.device("meta"):
        numbers = sum(value.numel() for value in TSANetwork(config).state_dict().values())
    if numbers > n_bytes:
        rule = f"model.json must describe a network that fits {WEIGHTS}"
        raise BundleError(f"{rule} (got {numbers:,} numbers, {n_bytes:,} bytes)")


@contextmanager
def _unreadable_is_refused(path: str | Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise BundleError(f"{path} cannot be read: {error}") from error


def set_decision_policy(path: Path, texts: Sequence[str], *, score: str, otherwise: str = "accept") -> DecisionPolicy:
    """Write decisions, `NAME=LIMIT` each, into the bundle at `path`, and update its hashes.

    Raises:
        ConfigError: For invalid decisions, or a score that the bundle is not calibrated for.
    """
    bundle = Bundle.open(path)
    made = DecisionPolicy(score=score, decisions=tuple(map(_decision, texts)), default=otherwise)
    calibration = bundle.calibration
    if score != "raw_score" and (calibration is None or getattr(calibration, score) is None):
        raise ConfigError(f"thresholds: decisions need {score} (got a bundle that is not calibrated for it)")
    replace(bundle, thresholds=made).save(path)
    return made


def _decision(text: str) -> Decision:
    name, _, limit = text.partition("=")
    try:
        return Decision(name.strip(), float(limit))
    except ValueError:
        raise ConfigError(f"--threshold must be NAME=LIMIT, such as review=0.98 (got {text!r})") from None
