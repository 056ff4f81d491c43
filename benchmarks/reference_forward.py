"""How fast the reference network is beside the same arithmetic written plainly: forward, training step, peak memory.

    python benchmarks/reference_forward.py [--quick]

EU production sizes, random weights, full histories (no padding to skip). The baseline below is the legacy system's way: all
positions of every layer, expanded embeddings, whole attention matrices, float32, eager. One thread. Times are medians of
alternating runs in one process, in CPU seconds (one thread, so that other load on the machine does not count); memory is
what the training step adds to the process's peak, each in a process of its own. `onnx` is ONNX Runtime on the exported graph,
float32; left out where the extra `onnx` is not installed.
"""

from __future__ import annotations

import argparse
import copy
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from tsa.inference.engine import OnnxEngine
from tsa.inference.onnx_export import export_onnx
from tsa.inference.onnx_runtime import has_runtime
from tsa.legacy.weights import legacy_names
from tsa.model import Batch, History, ModelConfig, TSANetwork, preset
from tsa.model.fusion import gate_config

LENGTH = 51


class PlainReference:
    """The reference model, of one history or two, straight from its description, on a state dict with its names."""

    def __init__(self, state: dict[str, Tensor], config: ModelConfig, dropout: float = 0.0) -> None:
        self.w, self.config, self.dropout = state, config, dropout

    def __call__(self, batch: Batch) -> Tensor:
        return self.head("clf", self.embed(batch))

    def embed(self, batch: Batch) -> Tensor:
        first, *others = (batch.histories[name] for name in self.config.histories)
        alone = ("order_attention", "embedding", first, self.config)
        order = self.two_orders(first, others[0]) if others else self.order(*alone)
        return torch.cat([order, self.feature(first, batch.engineered)], dim=-1)

    def two_orders(self, cid: History, ccid: History) -> Tensor:
        small = gate_config(self.config)
        seen = [self.order("gate_emb", "embedding_gate", history, small) for history in (cid, ccid)]
        gate = torch.softmax(self.head("gate_score", torch.cat(seen, dim=-1)), dim=-1)
        card = gate[:, 1] * ((~ccid.padding).sum(1) > 1)
        cid_order = self.order("order_attention_cid", "embedding", cid, self.config)
        ccid_order = self.order("order_attention_ccid", "embedding", ccid, self.config)
        ccid_order = torch.where(card[:, None] > 0.05, ccid_order, 0.0)
        return self.norm("layer_norm", gate[:, :1] * cid_order + card[:, None] * ccid_order)

    def order(self, block: str, table: str, history: History, config: ModelConfig) -> Tensor:
        categorical, numerical = self.embedded(table, history)
        halves = [
            self.aggregate(f"{block}.feature_aggregation_{n}", x) for n, x in (("cat", categorical), ("num", numerical))
        ]
        x = self.norm(f"{block}.layer_norm_feature", torch.cat(halves, dim=-1))
        x = self.norm(
            f"{block}.layer_norm", torch.cat([x, self.w[f"{block}.dummy_order"].expand(len(x), 1, -1)], dim=1)
        )
        age, padding = functional.pad(history.age_seconds, (0, 1)), functional.pad(history.padding, (0, 1))
        factor = None
        if config.time_attention == "exponential":
            factor = torch.exp((age.unsqueeze(-1) - age.unsqueeze(-2)) / 1e6)[:, None]
        for i in range(config.n_order_layers):
            name = f"{block}.layer_stack.{i}"
            x = self.norm(
                f"{name}.layer_norm1", x + self.drop(self.attention(name, x, config.n_heads, factor, padding))
            )
            x = self.norm(f"{name}.layer_norm2", x + self.drop(self.head(f"{name}.feedforward", x)))
        return x[:, -1]

    def feature(self, history: History, engineered: Tensor | None) -> Tensor:
        own = self.w["embedding_engineered.weight"]
        current = History(*(getattr(history, f)[:, -1] for f in ("categorical", "numerical", "age_seconds", "padding")))
        tokens = torch.cat(self.embedded("embedding", current), dim=1)
        if self.config.biases:
            tokens = tokens + self.w["feature_attention.emb_tbl_bias"]
        parts = [tokens]
        if engineered is not None:
            extra = own[1:] * engineered.unsqueeze(-1)
            if self.config.biases:
                extra = extra + self.w["feature_attention.engineered_emb_tbl_bias"]
            parts.append(extra)
        x = torch.cat([*parts, own[:1].detach().expand(len(tokens), 1, -1)], dim=1)
        x = self.norm("feature_attention.layer_norm_engineered", x)
        for i in range(self.config.n_feature_layers):
            name = f"feature_attention.layer_stack_feature.{i}"
            x = x + self.drop(self.attention(name, self.norm(f"{name}.layer_norm1", x), self.config.n_heads))
            x = x + self.drop(self.head(f"{name}.feedforward", self.norm(f"{name}.layer_norm2", x)))
        return x[:, -1]

    def embedded(self, name: str, history: History) -> tuple[Tensor, Tensor]:
        table = self.w[f"{name}.weight"]
        n, n_numerical = len(table) - 2, history.numerical.shape[-1]
        rows = torch.arange(n - n_numerical + 1, n + 1)
        numerical = functional.embedding(rows, table) * history.numerical.unsqueeze(-1)
        return functional.embedding(history.categorical, table, padding_idx=0), numerical

    def aggregate(self, name: str, x: Tensor) -> Tensor:
        x = x.transpose(-1, -2)
        for i in range(0, 12, 2):
            x = self.linear(f"{name}.encoder.{i}", x)
            x = functional.leaky_relu(x, 0.01) if i < 10 else x
        return x.squeeze(-1)

    def attention(
        self, name: str, x: Tensor, n_heads: int, factor: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        weight, bias = self.w[f"{name}.multi_attn.in_proj_weight"], self.w[f"{name}.multi_attn.in_proj_bias"]
        parts = functional.linear(x, weight, bias).chunk(3, dim=-1)
        q, k, v = (p.unflatten(-1, (n_heads, -1)).transpose(1, 2) for p in parts)
        logits = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
        if factor is not None:
            logits = logits * factor
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, None], -math.inf)
        seen = self.drop(torch.softmax(logits, dim=-1)) @ v
        return self.linear(f"{name}.multi_attn.out_proj", seen.transpose(1, 2).flatten(2))

    def head(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.3", self.drop(torch.relu(self.linear(f"{name}.0", x))))

    def drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.dropout > 0)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])


def original_state(network: TSANetwork) -> dict[str, Tensor]:
    """The network's parameters under the legacy system's names, shared (not copied)."""
    parameters = network.named_parameters()
    return {name: value for own, value in parameters for name in legacy_names(own, network.config)}


def random_batch(config: ModelConfig, size: int, length: int = LENGTH) -> Batch:
    """Full histories, ages up to three weeks."""
    last_value = config.n_embedding - config.n_numerical
    history = History(
        categorical=torch.randint(1, last_value + 1, (size, length, config.n_categorical), dtype=torch.int32),
        numerical=torch.rand(size, length, config.n_numerical),
        age_seconds=functional.pad((torch.rand(size, length - 1) * 2e6).sort(dim=1, descending=True)[0], (0, 1)),
        padding=torch.zeros(size, length, dtype=torch.bool),
    )
    return Batch({"cid": history}, torch.rand(size, config.n_engineered) if config.n_engineered else None)


def timed(candidates: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, runs alternating so that a slow moment of the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(repeats + 1):
        for name, candidate in candidates.items():
            started = time.process_time()
            candidate()
            if run:
                seconds[name].append(time.process_time() - started)
    return {name: 1e3 * sorted(values)[len(values) // 2] for name, values in seconds.items()}


def make(dropout: float) -> tuple[TSANetwork, PlainReference]:
    torch.manual_seed(0)
    network = TSANetwork(preset("reference", dropout=dropout)).eval()
    return network, PlainReference(original_state(network), network.config, dropout)


def report(title: str, times: dict[str, float], unit: str = "ms") -> None:
    base = times["plain"]
    for name, value in times.items():
        print(f"{title:<34}{name:<12}{value:>10.2f} {unit}{base / value:>9.2f} x")


def forward(quick: bool) -> None:
    network, plain = make(0.0)
    half = copy.deepcopy(network).to_bfloat16()
    graph = exported(network)
    with torch.inference_mode():
        for size, repeats in ((1, 60), (64, 3 if quick else 7)):
            batch = random_batch(network.config, size)
            models = {"plain": plain, "tsa": network, "bfloat16": half, **graph}
            report(f"forward, batch {size}", timed({k: partial(model, batch) for k, model in models.items()}, repeats))
        difference = (network.embed(batch) - plain.embed(batch)).abs().max()
        print(f"{'largest difference of embeddings':<46}{difference:>10.1e}")
        scores = [torch.softmax(model(batch), dim=-1) for model in (plain, half)]
        print(f"{'largest difference of scores, bfloat16':<46}{(scores[0] - scores[1]).abs().max():>10.1e}")
        for name, engine in graph.items():
            print(
                f"{f'largest difference of scores, {name}':<46}{abs(scores[0][:, 1].numpy() - expit(engine(batch))).max():>10.1e}"
            )


def exported(network: TSANetwork) -> dict[str, OnnxEngine]:
    """ONNX Runtime with one thread, where it is installed."""
    if not has_runtime():
        return {}
    return {"onnx": OnnxEngine(export_onnx(network, {"cid": LENGTH}), threads=1)}


def step(model: Callable[[Batch], Tensor], batch: Batch, targets: Tensor, network: TSANetwork) -> None:
    network.zero_grad()
    functional.cross_entropy(model(batch), targets).backward()


def gradients(quick: bool) -> None:
    network, plain = make(0.0)
    batch, targets = random_batch(network.config, 64), torch.randint(0, 2, (64,))
    found = {}
    for name, model in (("plain", plain), ("tsa", network)):
        step(model, batch, targets, network)
        found[name] = {key: value.grad.clone() for key, value in network.named_parameters() if value.grad is not None}
    largest = max((found["plain"][key] - value).abs().max().item() for key, value in found["tsa"].items())
    print(f"{'largest difference of gradients':<46}{largest:>10.1e}")
    network, plain = make(0.1)
    network.train()
    steps = {"plain": partial(step, plain), "tsa": partial(step, network)}
    candidates = {name: partial(run, batch, targets, network) for name, run in steps.items()}
    report("training step, batch 64", timed(candidates, 2 if quick else 4))


def memory() -> None:
    used = {}
    for name in ("plain", "tsa"):
        out = subprocess.run([sys.executable, __file__, "--step", name], capture_output=True, text=True, check=True)
        used[name] = float(out.stdout)
    report("peak memory of training step", used, "MB")


def step_memory(name: str) -> None:
    network, plain = make(0.1)
    network.train()
    batch, targets = random_batch(network.config, 64), torch.randint(0, 2, (64,))
    step(network, random_batch(network.config, 1), targets[:1], network)
    before = peak_megabytes()
    step(plain if name == "plain" else network, batch, targets, network)
    print(peak_megabytes() - before)


def peak_megabytes() -> float:
    """Most memory this process ever held; not from getrusage, which a child inherits from its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--step", choices=["plain", "tsa"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.step:
        step_memory(arguments.step)
        return
    memory()
    forward(arguments.quick)
    gradients(arguments.quick)


if __name__ == "__main__":
    main()
