"""Engines that compute the log odds of a batch, with PyTorch or ONNX Runtime. Both agree up to rounding.

`make_engine` gives an engine; call it with a batch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from tsa.bundle.graphs import refuse_outside
from tsa.data.history import HistoryArrays
from tsa.data.wire import Requests
from tsa.errors import ConfigError, ModelError
from tsa.inference.onnx_runtime import has_runtime, onnx_runtime
from tsa.model import Batch, TSANetwork
from tsa.model.batch import History
from tsa.model.collate import request_batch

EngineName = Literal["auto", "torch", "onnxruntime"]
Precision = Literal["float32", "bf16", "int8"]
ONNX_ROWS, CPU_ROWS, GPU_ROWS = 64, 128, 512
"""Payments computed together, by ONNX Runtime and by PyTorch. On a CPU few, so that intermediate results fit in its cache."""

INPUTS = ("categorical", "numerical", "age_seconds", "padding", "outcome", "same_key")
"""Inputs of a graph per history; `outcome` and `same_key` only if the network reads them."""


_log = logging.getLogger(__name__)


class Engine(Protocol):
    """Called with a batch or requests of B payments, returns the log odds of fraud (B,) float32.

    `tsa.model.network_and_trees.raw_scores` turns them into raw scores, the softmax probability of fraud.
    """

    name: str
    rows: int
    """Payments computed together; larger batches are split. In the last bits, scores depend on this number."""

    def __call__(self, batch: Batch | Requests) -> NDArray[np.float32]:
        """(B,)"""
        ...


class TorchEngine:
    """The network in PyTorch, in evaluation mode."""

    name = "torch"

    def __init__(self, network: TSANetwork, precision: Precision = "float32") -> None:
        """precision: float32 or bf16; bf16 uses a copy of the network."""
        if precision == "int8":
            raise ConfigError("precision: int8 needs engine='onnxruntime' (got engine='torch')")
        self.network = network.eval() if precision == "float32" else copy.deepcopy(network).eval().to_bfloat16()
        self._device = next(network.parameters()).device
        self.rows = CPU_ROWS if self._device.type == "cpu" else GPU_ROWS
        if precision == "bf16" and self._device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
            # a network of the legacy system's size took 20 times as long as in float32; cross-attention hardly changes
            _log.warning("precision: without AVX-512, as on this processor, bf16 can be many times slower than float32")

    def __call__(self, batch: Batch | Requests) -> NDArray[np.float32]:
        """(B,)"""
        batch = request_batch(batch) if isinstance(batch, Requests) else batch
        with torch.inference_mode():
            parts = [log_odds_of(self.network(part)).float() for part in batch.to(self._device).split(self.rows)]
            log_odds: NDArray[np.float32] = torch.cat(parts).cpu().numpy() if parts else np.empty(0, np.float32)
        return log_odds


class OnnxEngine:
    """An exported graph in ONNX Runtime, on CPUs."""

    name = "onnxruntime"
    rows = ONNX_ROWS

    def __init__(self, graph: bytes, threads: int = 1) -> None:
        """Load a graph.

        Args:
            graph: The output of `tsa.inference.onnx_export`.
            threads: Threads of ONNX Runtime.

        Raises:
            ConfigError: If ONNX Runtime is not installed.
            BundleError: If the graph needs other files.
        """
        refuse_outside(graph, "the graph")
        runtime = onnx_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._input_names = {entry.name for entry in self._session.get_inputs()}

    def __call__(self, batch: Batch | Requests) -> NDArray[np.float32]:
        """(B,)"""
        feed = {name: value for name, value in named_inputs(batch).items() if name in self._input_names}
        size = len(next(iter(feed.values())))
        if size <= self.rows:
            return self._run(feed) if size else np.empty(0, np.float32)
        pieces = range(0, size, self.rows)
        return np.concatenate(
            [self._run({name: value[at : at + self.rows] for name, value in feed.items()}) for at in pieces]
        )

    def _run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        log_odds: NDArray[np.float32] = self._session.run(["log_odds"], feed)[0]
        return log_odds


def log_odds_of(logits: torch.Tensor) -> torch.Tensor:
    """(B,) log odds of fraud, the second of the classes, from logits (B, classes)."""
    others = torch.cat([logits[:, :1], logits[:, 2:]], dim=1)
    return logits[:, 1] - (others[:, 0] if others.shape[1] == 1 else others.logsumexp(-1))


def named_inputs(batch: Batch | Requests) -> dict[str, NDArray[Any]]:
    """The arrays of a batch by the input names of a graph."""
    named = {
        f"{name}.{field}": value
        for name, history in batch.histories.items()
        for field, value in _fields(history).items()
    }
    return named if batch.engineered is None else {**named, "engineered": np.asarray(batch.engineered)}


def _fields(history: History | HistoryArrays) -> Mapping[str, NDArray[Any]]:
    arrays = {field: np.asarray(value) for field in INPUTS if (value := getattr(history, field)) is not None}
    return {**arrays, "categorical": _rows(arrays["categorical"])}


def _rows(categorical: NDArray[Any]) -> NDArray[np.int32]:
    """Rows of the table as int32 for a graph; PyTorch accepts any integer type. Raises ModelError for larger values."""
    if categorical.dtype == np.int32:
        return categorical
    with np.errstate(invalid="ignore"):
        narrow = categorical.astype(np.int32)
    if not np.array_equal(narrow, categorical):
        raise ModelError(f"categorical must be integers below 2³¹ (got {categorical.dtype} with others)")
    return narrow


def make_engine(
    name: EngineName,
    network: TSANetwork,
    graphs: Mapping[str, bytes],
    precision: Precision = "float32",
    threads: int = 1,
) -> Engine:
    """Make the engine with this name. graphs: exported graphs by precision.

    auto: ONNX Runtime if the network was exported for this precision and the runtime is installed, else PyTorch.

    Raises:
        ConfigError: For an unknown name, or if ONNX Runtime is requested and something is missing.
    """
    for what, value, known in (("engine", name, EngineName), ("precision", precision, Precision)):
        if value not in get_args(known):
            raise ConfigError(f"{what} must be one of {', '.join(get_args(known))} (got {value!r})")
    if precision == "int8" and name != "torch" and precision not in graphs:
        raise ConfigError(
            "--precision int8 needs an int8 graph in the bundle (got none): "
            "run tsa export BUNDLE --precision int8, then serve with --engine onnxruntime"
        )
    if name == "torch" or (name == "auto" and (precision not in graphs or not has_runtime())):
        return TorchEngine(network, precision)
    if precision not in graphs:
        raise ConfigError(
            f"engine='onnxruntime' needs the graph of precision {precision!r} in the bundle "
            f"(got {', '.join(name for name in graphs if name != 'trees') or 'none'}); run: tsa export BUNDLE"
        )
    return OnnxEngine(graphs[precision], threads)
