"""Graphs give what networks give, for any number of payments, whatever the blocks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tsa.errors import ModelError
from tsa.inference.engine import OnnxEngine, TorchEngine
from tsa.inference.onnx_export import export_onnx, quantize_int8, random_batch, verify_graph
from tsa.model import TSANetwork, preset

LENGTHS = {"customer": 6, "card": 9}
SIZES: dict[str, Any] = {"n_categorical": 5, "n_numerical": 3, "n_embedding": 40, "width": 16}
SMALL = {"n_order_layers": 2, "n_feature_layers": 2, "feedforward_width": 16, "classifier_width": 16, "gate_width": 8}
NETWORKS: dict[str, dict[str, Any]] = {
    "recall, two histories": {
        "preset": "default",
        "known_outcomes": True,
        "n_match_features": 2,
        "n_match_keys": 2,
        "n_missing_indicators": 1,
        "n_engineered": 4,
    },
    "reference with its gate": {"preset": "reference-two-history", "n_engineered": 4, **SMALL},
    "ages encoded as well": {
        "preset": "reference",
        "n_engineered": 4,
        "time_encoding": True,
        "fusion": "concat",
        **SMALL,
    },
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def exported(request: pytest.FixtureRequest) -> tuple[TSANetwork, bytes]:
    settings = {**NETWORKS[request.param], **SIZES}
    torch.manual_seed(0)
    network = TSANetwork(preset(settings.pop("preset"), histories=tuple(LENGTHS), **settings)).eval()
    return network, export_onnx(network, LENGTHS)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 200])
def test_any_number_of_payments(exported: tuple[TSANetwork, bytes], size: int) -> None:
    network, graph = exported
    batch = random_batch(network.config, LENGTHS, size, seed=size)
    own, other = TorchEngine(network)(batch), OnnxEngine(graph)(batch)
    assert own.shape == other.shape == (size,)
    assert own.dtype == other.dtype == np.float32
    np.testing.assert_allclose(other, own, rtol=0, atol=1e-6)
    assert size < 15 or len(np.unique(own)) > size // 2


def test_neighbours_make_no_difference(exported: tuple[TSANetwork, bytes]) -> None:
    network, graph = exported
    batch, engine = random_batch(network.config, LENGTHS, 40, seed=9), OnnxEngine(graph)
    alone = np.concatenate([engine(batch.rows(torch.tensor([row]))) for row in range(40)])
    np.testing.assert_allclose(alone, engine(batch), rtol=0, atol=1e-6)


def test_rows_of_the_table_of_any_whole_type(exported: tuple[TSANetwork, bytes]) -> None:
    network, graph = exported
    batch = random_batch(network.config, LENGTHS, 5)
    wide = {name: replace(one, categorical=one.categorical.long()) for name, one in batch.histories.items()}
    np.testing.assert_array_equal(OnnxEngine(graph)(replace(batch, histories=wide)), OnnxEngine(graph)(batch))


@pytest.mark.parametrize("value", [2**32 + 1, 1.5])
def test_what_is_no_row_is_refused(exported: tuple[TSANetwork, bytes], value: float) -> None:
    network, graph = exported
    batch = random_batch(network.config, LENGTHS, 2)
    dtype = torch.float32 if isinstance(value, float) else torch.int64
    odd = {
        name: replace(one, categorical=torch.full_like(one.categorical, value, dtype=dtype))
        for name, one in batch.histories.items()
    }
    with pytest.raises(ModelError, match="categorical must be integers below"):
        OnnxEngine(graph)(replace(batch, histories=odd))


def test_eight_bits(exported: tuple[TSANetwork, bytes]) -> None:
    network, graph = exported
    small = quantize_int8(graph)
    found = verify_graph(small, network, random_batch(network.config, LENGTHS, 100), max_difference=0.2)
    assert 0 < found.mean <= found.largest


def test_weights_leave_room_for_sums_of_two_products_in_sixteen_bits(exported: tuple[TSANetwork, bytes]) -> None:
    weights = onnx.load_model_from_string(quantize_int8(exported[1])).graph.initializer
    small = [onnx.numpy_helper.to_array(weight) for weight in weights if weight.data_type == onnx.TensorProto.INT8]
    matrices = [weight for weight in small if weight.ndim == 2]
    assert matrices
    assert max(int(np.abs(weight.astype(int)).max()) for weight in matrices) * 255 * 2 < 2**15


def test_what_angles_are_made_of_stays_as_it_is(exported: tuple[TSANetwork, bytes]) -> None:
    """A number in eight bits times a frequency is turns away from what it was."""
    network, graph = exported
    nodes = onnx.load_model_from_string(quantize_int8(graph)).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    angles = [made_by[node.input[0]] for node in nodes if node.op_type in ("Sin", "Cos")]
    assert len(angles) == 4 * (network.config.event_embedding == "sum") + 2 * network.config.time_encoding
    assert angles.count("MatMul") == (4 if network.config.event_embedding == "sum" else 0)
    assert not {"MatMulInteger", "Mul"} & set(angles)
    assert "MatMulInteger" in made_by.values()


def test_a_graph_of_another_network_is_refused(exported: tuple[TSANetwork, bytes]) -> None:
    network, graph = exported
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.classifier.narrow.bias[..., 1] += 0.1
    with pytest.raises(ModelError, match=r"the exported graph must agree with the network to 1e-05 [(]got"):
        verify_graph(graph, other, random_batch(network.config, LENGTHS, 10))
