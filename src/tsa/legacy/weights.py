"""Build a network in evaluation mode from the legacy system's constructor arguments and state dict.

Only this module knows the legacy parameter names. It reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from tsa.errors import ConfigError, ModelError
from tsa.model.config import Blocks, ModelConfig
from tsa.model.network import TSANetwork

ARGUMENTS: dict[str, Any] = {  # with the legacy defaults; None: required
    "n_cat_features": None,
    "n_num_features": None,
    "n_embedding": None,
    "dim_embedding_table": None,
    "dim_attn_feedforward": None,
    "n_layers_order": None,
    "n_layers_feature": None,
    "n_engineered_num_features": 0,
    "n_classes": 2,
    "seq_len": 51,
    "use_mlp": 0,
    "num_heads": 1,
    "dropout": 0.1,
    "emb_tbl_use_bias": 1,
    "use_moe": 0,
    "num_experts": 1,
    "use_time_seq": 1,
    "return_seq": False,
}
UNUSED = re.compile(  # parameters that the legacy forward pass never reads
    r"(order_attention(_ccid|_cid)?|gate_emb)\.emb_tbl_bias|feature_attention\.layer_norm\.(weight|bias)"
)
RENAMED = (  # TSA name → legacy name, applied in order
    (r"^table\.weight$", "embedding.weight"),
    (r"^combine\.table\.weight$", "embedding_gate.weight"),
    (r"^feature\.engineered$", "embedding_engineered.weight"),
    (r"^combine\.order\.", "gate_emb."),
    (r"^combine\.head\.widen\.", "gate_score.0."),
    (r"^combine\.head\.narrow\.", "gate_score.3."),
    (r"^combine\.norm\.", "layer_norm."),
    (r"^classifier\.widen\.", "clf.0."),
    (r"^classifier\.narrow\.", "clf.3."),
    (r"^mlp\.widen\.", "mlp.0."),
    (r"^mlp\.narrow\.", "mlp.3."),
    (r"^mlp\.norm\.", "mlp.4."),
    (r"^feature\.bias$", "feature_attention.emb_tbl_bias"),
    (r"^feature\.engineered_bias$", "feature_attention.engineered_emb_tbl_bias"),
    (r"^feature\.norm\.", "feature_attention.layer_norm_engineered."),
    (r"^feature\.layers\.", "feature_attention.layer_stack_feature."),
    (r"\.token$", ".dummy_order"),
    (r"\.events\.norm\.", ".layer_norm_feature."),
    (r"\.events\.categorical\.", ".feature_aggregation_cat.encoder."),
    (r"\.events\.numerical\.", ".feature_aggregation_num.encoder."),
    (r"^(order_attention\w*|gate_emb)\.norm\.", r"\1.layer_norm."),
    (r"^(order_attention\w*|gate_emb)\.layers\.", r"\1.layer_stack."),
    (r"\.attention\.", ".multi_attn."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.feedforward\.widen\.", ".feedforward.0."),
    (r"\.feedforward\.narrow\.", ".feedforward.3."),
)
EXPERTS = re.compile(r"(layer_stack(?:_feature)?\.\d+)\.(?:\w+\.)?(gate\.w_gating|experts\.w[12])$")
"""Parameters of experts. The name of their module is not specified, so any name is accepted."""
PREFIXES = ("module.", "_orig_mod.")
"""What distributed training and torch.compile put before the names of parameters."""
TWO = ("cid", "ccid")
AGE_CAP_SECONDS = {1: 1e7, 2: 2e7}
"""By number of histories: the age of the oldest event that the legacy handler scores; the network uses ages unchanged."""


def without_prefixes(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state dict without the prefixes that all its names have."""
    while shared := next((prefix for prefix in PREFIXES if state and all(n.startswith(prefix) for n in state)), None):
        state = {name.removeprefix(shared): value for name, value in state.items()}
    return state


def reference_network(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> TSANetwork:
    """The legacy model as a network in evaluation mode, equal up to float32 rounding.

    Args:
        config: The legacy constructor arguments under their legacy names.
        state: The state dict. Its names show whether it has one history or two (cid, ccid). Leading `PREFIXES` are
            removed. The MLP branch, which the legacy code never defines, is read as `mlp.0`
            (Linear), `mlp.3` (Linear) and `mlp.4` (LayerNorm).

    Raises:
        ModelError: Names every argument or parameter that is missing, unexpected, of another shape, not finite, or,
            for tables stored under several names, not equal under all of them.
    """
    state = without_prefixes(state)
    state = {EXPERTS.sub(r"\1.feedforward.\2", name): value for name, value in state.items()}
    settings = reference_config(config, state)
    with torch.device("meta"):
        network = TSANetwork(settings)
    weights = _WeightsReader(state, settings).read(network)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def reference_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ModelConfig:
    """The legacy constructor arguments as a ModelConfig.

    The number of histories and the blocks with experts follow from the names in `state`.

    Raises:
        ModelError: If arguments are missing, unknown or out of bounds.
    """
    missing = [name for name, default in ARGUMENTS.items() if default is None and config.get(name) is None]
    unknown = sorted(set(config) - set(ARGUMENTS))
    if missing or unknown:
        raise ModelError(f"constructor arguments: missing {missing or 'none'}, unknown {unknown or 'none'}")
    try:
        given = {name: _plain(value) for name, value in {**ARGUMENTS, **config}.items()}
    except ValueError as error:
        raise ModelError(f"constructor arguments: {error}") from error
    if given["return_seq"]:
        raise ModelError("constructor arguments: a classifier needs return_seq=False (got return_seq=True)")
    places = {"order": ".layer_stack.", "feature": ".layer_stack_feature.", "gate": "gate_emb.layer_stack."}
    two = any(name.startswith(("order_attention_cid.", "gate_emb.")) for name in state)
    experts = [name for name in state if name.endswith(".experts.w1")]
    histories = TWO if two else ("cid",)
    try:
        return ModelConfig(
            n_categorical=int(given["n_cat_features"]),
            n_numerical=int(given["n_num_features"]),
            n_engineered=int(given["n_engineered_num_features"]),
            n_embedding=int(given["n_embedding"]),
            histories=histories,
            n_classes=int(given["n_classes"]),
            width=int(given["dim_embedding_table"]),
            n_heads=int(given["num_heads"]),
            n_order_layers=int(given["n_layers_order"]),
            n_feature_layers=int(given["n_layers_feature"]),
            feedforward_width=int(given["dim_attn_feedforward"]),
            dropout=float(given["dropout"]),
            time_attention="exponential" if given["use_time_seq"] else "none",
            age_cap_seconds=AGE_CAP_SECONDS[len(histories)],
            biases=bool(given["emb_tbl_use_bias"]),
            mlp=bool(given["use_mlp"]),
            n_experts=int(given["num_experts"]) if given["use_moe"] else 0,
            experts_in=cast(
                Blocks,
                tuple(p for p, mark in places.items() if any(_is_placeholder(name, p, mark) for name in experts)),
            ),
            aggregation_floor=0,
        )
    except (ConfigError, TypeError, ValueError) as error:
        raise ModelError(f"constructor arguments: {error}") from error


def _plain(value: Any) -> Any:
    """A text as the number or boolean that it holds: hyperparameters of training jobs are texts, and "0" means no."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    return text == "true" if text in ("true", "false") else float(text)


def _is_placeholder(name: str, place: str, mark: str) -> bool:
    return mark in name and (place == "gate" or not name.startswith("gate_emb."))


def legacy_names(own: str, settings: ModelConfig) -> list[str]:
    """The names of a network parameter in a legacy state dict. The values under all of them must be equal."""
    blocks = [f"order_attention_{name}" for name in TWO] if len(settings.histories) > 1 else ["order_attention"]
    name = re.sub(r"^order\.(\d+)\.", lambda match: f"{blocks[int(match[1])]}.", own)
    if match := re.search(r"\.(weight|bias)(?:e?s)\.(\d+)$", name):  # an aggregation: every other module is linear
        name = f"{name[: match.start()]}.{2 * int(match[2])}.{match[1]}"
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    copies = {
        "embedding.weight": [*blocks, "feature_attention"],
        "embedding_engineered.weight": ["feature_attention"],
        "embedding_gate.weight": ["gate_emb"],
    }.get(name, [])
    return [name, *(f"{block}.{name.replace('_gate', '')}" for block in copies)]


class _WeightsReader:
    """Reads parameters from a state dict and records what does not fit."""

    def __init__(self, state: Mapping[str, Tensor], settings: ModelConfig) -> None:
        self.state, self.settings = state, settings
        self.findings: list[str] = []

    def read(self, network: TSANetwork) -> dict[str, Tensor]:
        """The network's weights under its own names. Raises ModelError, which lists all errors."""
        weights, used = {}, set()
        for own, value in network.state_dict().items():
            names = legacy_names(own, self.settings)
            used.update(names)
            weights[own] = self._take(names, tuple(value.shape))
        for name in self.state:
            if name not in used and not self._is_unused(name):
                self.findings.append(f"{name} is unexpected")
        if self.findings:
            raise ModelError(f"state dict does not fit the constructor arguments: {'; '.join(self.findings)}")
        return weights

    def _take(self, names: list[str], shape: tuple[int, ...]) -> Tensor:
        given = [(name, self.state[name]) for name in names if name in self.state]
        self.findings += [f"{name} is missing" for name in names if name not in self.state]
        for name, value in given:
            if tuple(value.shape) != shape:
                self.findings.append(f"{name} must be {shape} (got {tuple(value.shape)})")
            elif value.layout != torch.strided or value.is_complex() or value.is_quantized:
                self.findings.append(f"{name} must contain plain numbers (got {value.dtype}, {value.layout})")
            elif not bool(torch.isfinite(value).all()):
                self.findings.append(f"{name} contains numbers that are not finite")
            elif tuple(given[0][1].shape) == shape and not torch.equal(value, given[0][1]):
                self.findings.append(f"{name} must equal {given[0][0]}")
        return torch.empty(shape) if self.findings else given[0][1].detach().clone().float()

    def _is_unused(self, name: str) -> bool:
        single = len(self.settings.histories) == 1
        return bool(UNUSED.fullmatch(name)) or (single and name in ("layer_norm.weight", "layer_norm.bias"))
