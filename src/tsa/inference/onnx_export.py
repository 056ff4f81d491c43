"""Export a network as an ONNX graph: from the named arrays of a batch to raw scores, for any number of payments.

The graph is compared with the network before it is returned.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from tsa.errors import ModelError
from tsa.inference.engine import INPUTS, OnnxEngine, TorchEngine, log_odds_of
from tsa.inference.onnx_runtime import onnx_quantisation, onnx_runtime
from tsa.model import Batch, ModelConfig, TSANetwork
from tsa.model.batch import History
from tsa.optional_libraries import imported

OPSET = 20
AGREES = 1e-5
"""Maximum difference between the scores of a float32 graph and of the network."""
MAX_PAYMENTS = 65_536


class _Flat(nn.Module):
    """A network with one argument per tensor, as graphs have."""

    def __init__(self, network: TSANetwork, fields: Sequence[str]) -> None:
        super().__init__()
        self.network, self.fields = network, fields

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """→ (B,) raw scores and log odds."""
        n, config = len(self.fields), self.network.config
        histories = {
            name: History(**dict(zip(self.fields, tensors[at * n : (at + 1) * n], strict=True)))
            for at, name in enumerate(config.histories)
        }
        engineered = tensors[-1] if config.n_engineered else None
        logits: Tensor = self.network(Batch(histories, engineered))
        return logits.softmax(-1)[:, 1], log_odds_of(logits)


def export_onnx(network: TSANetwork, lengths: Mapping[str, int]) -> bytes:
    """The graph of a network in evaluation mode. lengths: events of each history, including the current one.

    Its inputs are `HISTORY.FIELD` and `engineered`, as `tsa.inference.engine.named_inputs` names them, of B payments; its
    outputs `raw_score` and `log_odds` (B,).

    Raises:
        ConfigError: If the required packages are missing.
        ModelError: If the graph does not give the network's scores.
    """
    _refuse_missing()
    optional = {"outcome": network.config.known_outcomes, "same_key": network.config.n_match_keys > 0}
    fields = [field for field in INPUTS if optional.get(field, True)]
    sample = random_batch(network.config, lengths, size=3)
    names, tensors = _flat(sample, fields, network.config)
    size = torch.export.Dim("payments", min=1, max=MAX_PAYMENTS)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Flat(network.eval(), fields),
            tensors,
            dynamo=True,
            input_names=names,
            output_names=["raw_score", "log_odds"],
            dynamic_shapes=(tuple({0: size} for _ in tensors),),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph = _bytes_of(program)
    verify_graph(graph, network, random_batch(network.config, lengths, size=64))
    return graph


def quantize_int8(graph: bytes) -> bytes:
    """Quantise the graph: weights of matrix products to seven bits of an int8, inputs dynamically to eight bits.

    Products that read an event's numbers are not quantised: they are small, and the sine and cosine of quantised numbers
    would be inaccurate.
    """
    _refuse_missing()
    tools = onnx_quantisation()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(_unshare_weights(graph))
        tools.quantize_dynamic(
            before,
            after,
            weight_type=tools.QuantType.QInt8,
            # 7 bits: without VNNI, sums of two 8-bit products overflow 16 bits, and score errors are several times larger
            reduce_range=True,
            nodes_to_exclude=_of_plain_numbers(graph),
        )
        return after.read_bytes()


def _of_plain_numbers(graph: bytes) -> list[str]:
    """Names of the products with the same input as one followed by sine or cosine."""
    import onnx

    nodes = onnx.load_model_from_string(graph).graph.node
    products = [node for node in nodes if node.op_type == "MatMul"]
    angles = {node.input[0] for node in nodes if node.op_type in ("Sin", "Cos")}
    numbers = {node.input[0] for node in products if node.output[0] in angles}
    return [node.name for node in products if node.input[0] in numbers]


def _unshare_weights(graph: bytes) -> bytes:
    """The same graph with a separate matrix for each product: quantising names its outputs by the matrix."""
    import onnx

    model = onnx.load_model_from_string(graph)
    weights = {weight.name: weight for weight in model.graph.initializer}
    nodes: list[Any] = []
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        matrix = node.input[1] if node.op_type == "Gemm" else None
        if matrix in seen:
            node.input[1] = own = f"{matrix}.{number}"
            if matrix in weights:
                copy = onnx.TensorProto()
                copy.CopyFrom(weights[matrix])
                copy.name = own
                model.graph.initializer.append(copy)
            else:
                nodes.append(onnx.helper.make_node("Identity", [matrix], [own]))
        elif matrix is not None:
            seen.add(matrix)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Difference:
    """Differences between the scores of a graph and of the network."""

    largest: float
    mean: float
    log_odds: float
    """The largest difference of log odds."""


def verify_graph(graph: bytes, network: TSANetwork, batch: Batch, max_difference: float = AGREES) -> Difference:
    """Compare a graph with the network on a batch. Raises ModelError if a score differs by more than `max_difference`."""
    own, other = (engine(batch).astype(np.float64) for engine in (TorchEngine(network), OnnxEngine(graph)))
    difference = np.abs(expit(own) - expit(other))
    log_odds = float(np.abs(own - other).max(initial=0.0))
    deviation = Difference(float(difference.max(initial=0.0)), float(difference.mean()), log_odds)
    if not deviation.largest <= max_difference:
        raise ModelError(
            f"the exported graph must agree with the network to {max_difference:g} (got a difference of {deviation.largest:g})"
        )
    return deviation


def random_batch(config: ModelConfig, lengths: Mapping[str, int], size: int, seed: int = 0) -> Batch:
    """`size` random payments with histories of all lengths, for tracing and comparing."""
    rng = np.random.default_rng(seed)
    histories = {name: _random_history(config, lengths[name], size, rng) for name in config.histories}
    numbers = rng.normal(size=(size, config.n_engineered)).astype(np.float32)
    return Batch(histories, torch.from_numpy(numbers) if config.n_engineered else None)


def _random_history(config: ModelConfig, length: int, size: int, rng: np.random.Generator) -> History:
    lengths = rng.integers(1, length + 1, size)
    padding = np.arange(length) < (length - lengths)[:, None]
    visible = ~padding[..., None]
    categorical = rng.integers(1, config.n_embedding - config.n_numerical + 1, (size, length, config.n_categorical))
    age = np.sort(rng.exponential(1e6, (size, length)), axis=1)[:, ::-1].astype(np.float32)
    age[:, -1] = 0.0
    outcome = rng.integers(1, 4, (size, length)).astype(np.int8)
    outcome[:, -1] = 1
    numerical = rng.normal(size=(size, length, config.n_numerical)).astype(np.float32)
    same_key = rng.random((size, length, config.n_match_keys)) < 0.5
    return History(
        categorical=torch.from_numpy((categorical * visible).astype(np.int32)),
        numerical=torch.from_numpy((numerical * visible).astype(np.float32)),
        age_seconds=torch.from_numpy(age * ~padding),
        padding=torch.from_numpy(padding),
        outcome=torch.from_numpy(outcome * ~padding) if config.known_outcomes else None,
        same_key=torch.from_numpy(same_key & visible) if config.n_match_keys else None,
    )


def _flat(batch: Batch, fields: Sequence[str], config: ModelConfig) -> tuple[list[str], tuple[Tensor, ...]]:
    pairs = [
        (f"{name}.{field}", getattr(batch.histories[name], field)) for name in config.histories for field in fields
    ]
    if batch.engineered is not None:
        pairs.append(("engineered", batch.engineered))
    return [name for name, _ in pairs], tuple(value for _, value in pairs)


def _bytes_of(program: Any) -> bytes:
    """The graph as one file that includes its weights."""
    import onnx

    into = io.BytesIO()
    onnx.save_model(program.model_proto, into)
    return into.getvalue()


@contextmanager
def _quiet() -> Any:
    """Silence messages of the exporter that do not concern the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _refuse_missing() -> None:
    onnx_runtime("an export")
    for module in ("onnx", "onnxscript"):
        imported("an export", module, "onnx")
