from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tsa.errors import ModelError
from tsa.legacy.weights import reference_network
from tsa.model import Batch, History, ModelConfig, TSANetwork, preset

FIELDS = ("categorical", "numerical", "age_seconds", "padding")
ORIGINAL = {"aggregation_floor": 0, "classifier_width": 1024}
MODELS = ("single", "single_no_time_no_bias", "single_no_engineered", "two_sequence")


def as_batch(tensors: dict[str, Tensor]) -> Batch:
    names = ("cid", "ccid") if "padding_cid" in tensors else ("",)
    histories = {n or "any": History(*(tensors[f"{f}_{n}" if n else f] for f in FIELDS)) for n in names}
    return Batch(histories=histories, engineered=tensors.get("engineered"))


def original_config(config: ModelConfig) -> dict:
    return {
        "n_cat_features": config.n_categorical,
        "n_num_features": config.n_numerical,
        "n_classes": config.n_classes,
        "n_embedding": config.n_embedding,
        "seq_len": 9,
        "n_engineered_num_features": config.n_engineered,
        "dim_embedding_table": config.width,
        "dim_attn_feedforward": config.feedforward_width,
        "use_mlp": int(config.mlp),
        "num_heads": config.n_heads,
        "dropout": config.dropout,
        "n_layers_order": config.n_order_layers,
        "n_layers_feature": config.n_feature_layers,
        "emb_tbl_use_bias": int(config.biases),
        "use_moe": int(config.n_experts > 0),
        "num_experts": config.n_experts or 1,
        "use_time_seq": int(config.time_attention == "exponential"),
        "return_seq": False,
    }


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_the_golden_files(name, gradient, golden, golden_config):
    network = reference_network(golden_config(name), golden(f"{name}.weights"))
    tensors = golden(f"{name}.tensors")
    batch = as_batch(tensors)
    assert not network.training
    with torch.set_grad_enabled(gradient):
        torch.testing.assert_close(network.embed(batch), tensors["ensemble"], atol=1e-5, rtol=0)
        torch.testing.assert_close(network(batch), tensors["scores"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS[:3])
def test_single_blocks_agree_with_the_golden_files(name, golden, golden_config):
    network = reference_network(golden_config(name), golden(f"{name}.weights"))
    tensors = golden(f"{name}.tensors")
    (history,) = as_batch(tensors).histories.values()
    table = network.table.weight
    order = tensors["order_embedding"]
    torch.testing.assert_close(network.order[0](history, table), order, atol=1e-5, rtol=0)
    torch.testing.assert_close(network.order[0].sequence(history, table)[:, -1], order, atol=1e-5, rtol=0)
    feature = network.feature(history.categorical[:, -1], history.numerical[:, -1], tensors.get("engineered"), table)
    torch.testing.assert_close(feature, tensors["feature_embedding"], atol=1e-5, rtol=0)


def test_gate_agrees_with_the_golden_file(golden, golden_config):
    network = reference_network(golden_config("two_sequence"), golden("two_sequence.weights"))
    tensors = golden("two_sequence.tensors")
    batch = as_batch(tensors)
    importance = network.combine.importance([batch.histories["cid"], batch.histories["ccid"]])
    torch.testing.assert_close(importance, tensors["gate_raw"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_heads": 2},
        {"n_heads": 4, "n_order_layers": 3, "n_feature_layers": 1},
        {"n_heads": 1, "n_order_layers": 1, "n_feature_layers": 3, "n_classes": 3},
        {"n_heads": 2, "biases": False, "time_attention": "none", "n_engineered": 0},
        {"n_categorical": 40, "n_numerical": 33, "n_embedding": 90},
    ],
)
@pytest.mark.parametrize("histories", [("cid",), ("cid", "ccid")])
def test_agrees_with_a_second_implementation(changes, histories, small, make_batch, plain):
    config = small(**{"histories": histories, **ORIGINAL, **changes})
    state = {name: value.detach() for name, value in plain.original_state(TSANetwork(config)).items()}
    network = reference_network(original_config(config), state)
    batch = make_batch(config)
    expected = plain.PlainReference(state, config)
    torch.testing.assert_close(network.embed(batch), expected.embed(batch), atol=1e-5, rtol=0)
    torch.testing.assert_close(network(batch), expected(batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["reference", "reference-two-history"])
def test_agrees_at_production_sizes(name, make_batch, plain):
    config = preset(name, aggregation_floor=0, n_heads=2)
    state = {name: value.detach() for name, value in plain.original_state(TSANetwork(config)).items()}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    network, batch = reference_network(original_config(config), wrapped), make_batch(config)
    torch.testing.assert_close(network(batch), plain.PlainReference(state, config)(batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("experts_in", [("order",), ("order", "feature"), ("order", "feature", "gate")])
def test_experts_are_found_by_their_names(experts_in, small, make_batch, plain):
    config = small(histories=("cid", "ccid"), n_experts=3, experts_in=experts_in, **ORIGINAL)
    own = TSANetwork(config).eval()
    network = reference_network(original_config(config), plain.original_state(own))
    assert network.config.experts_in == experts_in
    batch = make_batch(config)
    torch.testing.assert_close(network(batch), own(batch))


def test_one_expert_and_the_mlp_branch_load(small, make_batch, plain):
    config = small(n_experts=1, mlp=True, **ORIGINAL)
    own = TSANetwork(config).eval()
    network = reference_network(original_config(config), plain.original_state(own))
    batch = make_batch(config)
    torch.testing.assert_close(network(batch), own(batch))


@pytest.fixture
def state(golden) -> dict[str, Tensor]:
    return golden("single.weights")


def test_unused_parameters_and_the_prefix_of_distributed_training_make_no_difference(state, golden_config, golden):
    unused = ("order_attention.emb_tbl_bias", "feature_attention.layer_norm.weight", "layer_norm.bias")
    wrapped = {f"module.{name}": value for name, value in state.items() if name not in unused}
    network = reference_network(golden_config("single"), wrapped)
    tensors = golden("single.tensors")
    torch.testing.assert_close(network(as_batch(tensors)), tensors["scores"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name",
    [
        "clf.3.bias",
        "order_attention.embedding.weight",
        "feature_attention.embedding_engineered.weight",
        "order_attention.layer_stack.1.multi_attn.in_proj_weight",
        "feature_attention.emb_tbl_bias",
    ],
)
def test_a_missing_parameter_is_named(name, state, golden_config):
    del state[name]
    with pytest.raises(ModelError, match=rf"{name} is missing"):
        reference_network(golden_config("single"), state)


def test_what_is_left_over_is_named(state, golden_config):
    state["clf.5.weight"] = torch.zeros(2)
    with pytest.raises(ModelError, match=r"clf\.5\.weight is unexpected"):
        reference_network(golden_config("single"), state)


def test_all_findings_are_listed_at_once(state, golden_config):
    state["order_attention.embedding.weight"] = state["embedding.weight"] + 1e-3
    state["clf.0.weight"] = torch.zeros(3, 3)
    state["clf.0.bias"][7] = float("nan")
    with pytest.raises(ModelError) as error:
        reference_network(golden_config("single"), state)
    assert "order_attention.embedding.weight must equal embedding.weight" in str(error.value)
    assert "clf.0.weight must be (1024, 48) (got (3, 3)" in str(error.value)
    assert "clf.0.bias contains numbers that are not finite" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"return_seq": True}, "return_seq"),
        ({"num_heads": 3}, r"n_heads must divide width [(]got n_heads=3, width=16"),
        ({"n_embedding": None}, "n_embedding"),
        ({"colour": 1}, "colour"),
        ({"dropout": "much"}, "much"),
    ],
)
def test_bad_arguments_are_named(changes, text, state, golden_config):
    with pytest.raises(ModelError, match=text):
        reference_network({**golden_config("single"), **changes}, state)


def test_top_level_layer_norm_is_needed_by_two_histories(golden, golden_config):
    state = golden("two_sequence.weights")
    del state["layer_norm.weight"]
    with pytest.raises(ModelError, match=r"layer_norm\.weight is missing"):
        reference_network(golden_config("two_sequence"), state)
