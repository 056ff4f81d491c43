"""Export the parts of a bundle as graphs and add them to the bundle (`tsa export`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from tsa.bundle.bundle import GRAPHS, Bundle
from tsa.data.store.prepare import encoded_log
from tsa.errors import ConfigError
from tsa.files.writing import atomic_file
from tsa.inference.engine import Engine, OnnxEngine, Precision, TorchEngine
from tsa.inference.onnx_export import AGREES, Difference, export_onnx, quantize_int8, random_batch, verify_graph
from tsa.inference.onnx_trees import columns_at_splits, export_trees, verify_trees
from tsa.model import Batch
from tsa.model.collate import gather_batch
from tsa.progress import Progress, silent

COMPARED = 1000
"""Number of payments on which graph and network are compared."""
COMPARED_TREES = 10_000
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
    trees: ExportedTrees | None = None


@dataclass(frozen=True)
class ExportedTrees:
    """The exported graph of trees, and the largest difference of its log odds from LightGBM's on a number of payments."""

    file: str
    bytes: int
    log_odds: float
    compared: int


def export_bundle(
    path: Path,
    precision: str = "float32",
    *,
    log: Path | None = None,
    copy: Path | None = None,
    progress: Progress = silent,
) -> Exported:
    """Export the network of the bundle at `path`, and its trees if they count in scores; add the graphs to the bundle and
    update its hashes.

    Args:
        log: Payments to compare scores on; by default random ones.
        copy: Another file to write the network's graph to; that of trees is written to `trees_copy(copy)`.

    Raises:
        ConfigError: For an unknown precision.
        ModelError: If scores of a float32 graph differ by more than 1e-5, or of another graph by more than 0.1; or log
            odds of trees by more than 1e-6.
    """
    precisions = [name for name in GRAPHS if name in get_args(Precision)]
    if precision not in precisions:
        raise ConfigError(f"precision must be one of {', '.join(precisions)} (got {precision!r})")
    bundle = Bundle.open(path)
    with progress("exporting", 3) as advance:
        graph = bundle.graphs.get("float32") or export_onnx(bundle.network, bundle.lengths)
        advance(1)
        if precision == "int8":
            graph = quantize_int8(graph)
        advance(1)
        batch, columns = _compared(bundle, log)
        difference = verify_graph(graph, bundle.network, batch, AGREES if precision == "float32" else MAX_MOVEMENT)
        one = batch.rows(torch.tensor([len(batch) - 1]))
        seconds = {"graph": _seconds(OnnxEngine(graph), one), "network": _seconds(TorchEngine(bundle.network), one)}
        of_trees = _trees_graph(bundle)
        trees = None if of_trees is None else _compared_trees(bundle, of_trees, columns)
        advance(1)
    graphs = {precision: graph, **({} if of_trees is None else {"trees": of_trees})}
    replace(bundle, graphs={**bundle.graphs, **graphs}).save(path)
    for target, content in ((copy, graph), (trees_copy(copy), of_trees)):
        if target is not None and content is not None:
            with atomic_file(target) as temporary:
                temporary.write_bytes(content)
    return Exported(GRAPHS[precision], len(graph), difference, len(batch), seconds, trees)


def trees_copy(copy: Path | None) -> Path | None:
    """Where the graph of trees is written if that of the network is written to `copy`: NAME.trees.onnx."""
    return None if copy is None else copy.with_suffix(f".trees{copy.suffix}")


def _trees_graph(bundle: Bundle) -> bytes | None:
    """The graph of the trees; None if they do not count."""
    if bundle.trees is None or "trees" not in bundle.joining.parts:
        return None
    return bundle.graphs.get("trees") or export_trees(bundle.trees.trees)


def _compared_trees(bundle: Bundle, graph: bytes, columns: NDArray[Any] | None) -> ExportedTrees:
    """Compare with LightGBM at all thresholds, and on the columns of payments. Raises ModelError."""
    assert bundle.trees is not None
    trees = bundle.trees.trees
    tried = columns_at_splits(trees, COMPARED_TREES)
    tried = tried if columns is None else np.concatenate([tried, columns])
    return ExportedTrees(GRAPHS["trees"], len(graph), verify_trees(graph, trees, tried), len(tried))


def _seconds(engine: Engine, one: Batch) -> float:
    """The median time of a single payment."""
    took = []
    for _ in range(TIMED):
        began = time.perf_counter()
        engine(one)
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def _compared(bundle: Bundle, log: Path | None) -> tuple[Batch, NDArray[Any] | None]:
    """The last payments of a log, which have the longest histories, and what trees read of them; random ones without a log."""
    if log is None:
        return random_batch(bundle.config, bundle.lengths, COMPARED, seed=1), None
    with encoded_log(bundle.market, log, bundle.encoder) as store:
        rows = np.arange(max(0, len(store) - COMPARED), len(store))
        columns = None if bundle.trees is None else bundle.trees.columns.of_store(store, rows)
        return gather_batch(store, rows), columns
