"""Export the network of a bundle as a graph and add it to the bundle (`tsa export`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tsa.bundle.bundle import GRAPHS, Bundle
from tsa.data.store.store import encoded_log
from tsa.errors import ConfigError
from tsa.files.writing import atomic_file
from tsa.inference.engine import Engine, OnnxEngine, TorchEngine
from tsa.inference.onnx_export import AGREES, Difference, export_onnx, quantize_int8, random_batch, verify_graph
from tsa.model import Batch
from tsa.model.collate import gather_batch
from tsa.progress import Progress, silent

COMPARED = 1000
"""Number of payments on which graph and network are compared."""
MAX_MOVEMENT = 0.1
TIMED = 50


@dataclass(frozen=True)
class Exported:
    """The exported graph, and how far its scores differ from the network's on a number of payments.

    seconds: time of a single payment, by the graph on one thread and by the network.
    """

    file: str
    bytes: int
    difference: Difference
    compared: int
    seconds: Mapping[str, float]


def export_bundle(
    path: Path,
    precision: str = "float32",
    *,
    log: Path | None = None,
    copy: Path | None = None,
    progress: Progress = silent,
) -> Exported:
    """Export the network of the bundle at `path`, add the graph to the bundle and update its hashes.

    Args:
        log: Payments to compare scores on; by default random ones.
        copy: Another file to write the graph to.

    Raises:
        ConfigError: For an unknown precision.
        ModelError: If scores of a float32 graph differ by more than 1e-5, or of another graph by more than 0.1.
    """
    if precision not in GRAPHS:
        raise ConfigError(f"precision must be one of {', '.join(GRAPHS)} (got {precision!r})")
    bundle = Bundle.open(path)
    with progress("exporting", 3) as advance:
        graph = bundle.graphs.get("float32") or export_onnx(bundle.network, bundle.lengths)
        advance(1)
        if precision == "int8":
            graph = quantize_int8(graph)
        advance(1)
        batch = _batch(bundle, log)
        difference = verify_graph(graph, bundle.network, batch, AGREES if precision == "float32" else MAX_MOVEMENT)
        one = batch.rows(torch.tensor([len(batch) - 1]))
        seconds = {"graph": _seconds(OnnxEngine(graph), one), "network": _seconds(TorchEngine(bundle.network), one)}
        advance(1)
    replace(bundle, graphs={**bundle.graphs, precision: graph}).save(path)
    if copy is not None:
        with atomic_file(copy) as temporary:
            temporary.write_bytes(graph)
    return Exported(GRAPHS[precision], len(graph), difference, len(batch), seconds)


def _seconds(engine: Engine, one: Batch) -> float:
    """The median time of a single payment."""
    took = []
    for _ in range(TIMED):
        began = time.perf_counter()
        engine(one)
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def _batch(bundle: Bundle, log: Path | None) -> Batch:
    """The last payments of a log, which have the longest histories; random ones without a log."""
    if log is None:
        return random_batch(bundle.config, bundle.lengths, COMPARED, seed=1)
    with encoded_log(bundle.market, log, bundle.encoder) as store:
        return gather_batch(store, np.arange(max(0, len(store) - COMPARED), len(store)))
