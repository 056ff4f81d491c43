"""Export boosted trees as an ONNX graph: the columns that they read in, log odds and raw scores out.

LightGBM compares each float32 value with a threshold in double precision. The graph does the same (`TreeEnsemble` of
ai.onnx.ml 5, in doubles), so every payment reaches the same leaves; only the order in which leaves are added differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ModelError
from tsa.inference.onnx_runtime import onnx_runtime
from tsa.model.boosted_trees import BoostedTrees, tree_fields
from tsa.optional_libraries import imported

OPSET, ML_OPSET = 20, 5
AGREES = 1e-6
"""Maximum difference between the log odds of the graph and of LightGBM."""
LEQ, MEMBER = 0, 6
TINY = float(np.float32(1e-35))
"""LightGBM reads values up to this, of either sign, as 0."""
CATEGORICAL, DEFAULT_LEFT, MISSING_ZERO, MISSING_NAN = 1, 2, 4, 8
"""Bits of LightGBM's `decision_type`; without one of the last two, a missing value counts as 0."""


@dataclass
class _Ensemble:
    """The attributes of `TreeEnsemble`, filled tree by tree."""

    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    missing_true: list[int] = field(default_factory=list)
    children: dict[str, list[int]] = field(default_factory=lambda: {"true": [], "false": []})
    leafs: dict[str, list[int]] = field(default_factory=lambda: {"true": [], "false": []})
    members: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, tree: Mapping[str, Sequence[str]]) -> None:
        """Append a tree, given by the fields of its text."""
        first, first_leaf = len(self.features), len(self.weights)
        self.roots.append(first)
        self.weights += map(float, tree["leaf_value"])
        if len(tree["leaf_value"]) == 1:  # a tree that never splits: both ways lead to its leaf
            self._node(0, LEQ, 0.0, missing_true=True)
            self._ways([(~0, ~0)], first, first_leaf)
            return
        kinds, columns = map(int, tree["decision_type"]), map(int, tree["split_feature"])
        for kind, column, text in zip(kinds, columns, tree["threshold"], strict=True):
            if kind & CATEGORICAL:
                self.members += [*_codes(tree, int(float(text))), math.nan]
                self._node(column, MEMBER, 0.0, missing_true=False)
            else:
                threshold = float(text)
                self._node(column, LEQ, threshold, missing_true=_missing_goes_left(kind, threshold))
        children = zip(map(int, tree["left_child"]), map(int, tree["right_child"]), strict=True)
        self._ways(children, first, first_leaf)

    def _node(self, column: int, mode: int, split: float, *, missing_true: bool) -> None:
        self.features.append(column)
        self.modes.append(mode)
        self.splits.append(split)
        self.missing_true.append(int(missing_true))

    def _ways(self, children: Iterable[tuple[int, int]], first: int, first_leaf: int) -> None:
        """Where the splits of a tree lead. LightGBM writes a leaf as the complement of its number."""
        for pair in children:
            for way, child in zip(("true", "false"), pair, strict=True):
                self.children[way].append(first + child if child >= 0 else first_leaf + ~child)
                self.leafs[way].append(int(child < 0))

    def attributes(self, onnx: Any) -> dict[str, Any]:
        """As keyword arguments of a node."""

        def tensor(name: str, values: Sequence[float], kind: Any) -> Any:
            return onnx.numpy_helper.from_array(np.array(values, kind), name)

        return {
            "n_targets": 1,
            "aggregate_function": 1,  # sum
            "post_transform": 0,
            "tree_roots": self.roots,
            "nodes_featureids": self.features,
            "nodes_modes": tensor("modes", self.modes, np.uint8),
            "nodes_splits": tensor("splits", self.splits, np.float64),
            "nodes_missing_value_tracks_true": self.missing_true,
            "nodes_truenodeids": self.children["true"],
            "nodes_falsenodeids": self.children["false"],
            "nodes_trueleafs": self.leafs["true"],
            "nodes_falseleafs": self.leafs["false"],
            "leaf_targetids": [0] * len(self.weights),
            "leaf_weights": tensor("weights", self.weights, np.float64),
            **({"membership_values": tensor("members", self.members, np.float64)} if self.members else {}),
        }


def export_trees(trees: BoostedTrees) -> bytes:
    """The graph of trees: `columns` (B, K) float32, NaN where there is no value → `raw_score`, `log_odds` (B,) float64.

    Raises:
        ConfigError: If the required packages are missing.
        ModelError: If a tree treats zeros as missing, which LightGBM does only if it was asked to.
    """
    onnx = imported("an export", "onnx", "onnx")
    ensemble = _Ensemble()
    for tree in tree_fields(trees.text):
        ensemble.add({name: value.split() for name, value in tree.items()})
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["columns"], ["given"], to=kinds.DOUBLE),
        helper.make_node("Abs", ["given"], ["size"]),
        helper.make_node("LessOrEqual", ["size", "tiny"], ["is_tiny"]),
        helper.make_node("Where", ["is_tiny", "zero", "given"], ["doubles"]),
        helper.make_node("TreeEnsemble", ["doubles"], ["sums"], domain="ai.onnx.ml", **ensemble.attributes(onnx)),
        helper.make_node("Squeeze", ["sums", "last"], ["sum"]),
        helper.make_node("Add", ["sum", "shift"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["raw_score"]),
    ]
    constants = {
        "last": np.array([1]),
        "shift": np.array(trees.shift),
        "tiny": np.array(TINY),
        "zero": np.array(0.0),
    }
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("columns", kinds.FLOAT, ["payments", len(trees.names)])],
        [helper.make_tensor_value_info(name, kinds.DOUBLE, ["payments"]) for name in ("raw_score", "log_odds")],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="tsa")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _codes(tree: Mapping[str, Sequence[str]], at: int) -> list[float]:
    """The codes of one of the tree's sets, which it holds as bits."""
    first, last = (int(bound) for bound in tree["cat_boundaries"][at : at + 2])
    words = [int(word) for word in tree["cat_threshold"][first:last]]
    return [float(32 * place + bit) for place, word in enumerate(words) for bit in range(32) if word >> bit & 1]


def _missing_goes_left(kind: int, threshold: float) -> bool:
    if kind & MISSING_ZERO:
        raise ModelError("trees that treat zeros as missing cannot be exported (got zero_as_missing)")
    return bool(kind & DEFAULT_LEFT) if kind & MISSING_NAN else threshold >= 0


def run_trees(graph: bytes, columns: NDArray[Any]) -> NDArray[np.float64]:
    """(B,) log odds of the columns (B, K), by ONNX Runtime. Raises ConfigError if it is not installed."""
    runtime = onnx_runtime("an export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    result = session.run(["log_odds"], {"columns": np.ascontiguousarray(columns, np.float32)})[0]
    return np.asarray(result, np.float64)


def verify_trees(graph: bytes, trees: BoostedTrees, columns: NDArray[Any]) -> float:
    """The largest difference of log odds between a graph and the trees, for columns (B, K).

    Raises ModelError if it is above 1e-6.
    """
    largest = float(np.abs(run_trees(graph, columns) - trees.log_odds(columns)).max(initial=0.0))
    if not largest <= AGREES:
        raise ModelError(
            f"the exported trees must agree with LightGBM to {AGREES:g} in log odds (got a difference of {largest:g})"
        )
    return largest


def columns_at_splits(trees: BoostedTrees, size: int, seed: int = 0) -> NDArray[np.float32]:
    """(size, K) columns that try the splits: thresholds and the float32 values next to them, codes, 0 and missing values."""
    rng = np.random.default_rng(seed)
    tried: list[list[float]] = [[0.0, math.nan, -1.0] for _ in trees.names]
    for text in tree_fields(trees.text):
        tree = {name: value.split() for name, value in text.items()}
        for kind, column, threshold in zip(
            *(tree.get(name, []) for name in ("decision_type", "split_feature", "threshold")), strict=True
        ):
            if int(kind) & CATEGORICAL:
                codes = _codes(tree, int(float(threshold)))
                tried[int(column)] += [*codes, max(codes) + 1, 1e6]
            else:
                at = np.float32(threshold)
                tried[int(column)] += [float(np.nextafter(at, np.float32(way))) for way in (-np.inf, np.inf)] + [
                    float(at)
                ]
    columns = [rng.choice(np.array(values, np.float32), size) for values in tried]
    return np.stack(columns, axis=1) if columns else np.empty((size, 0), np.float32)
