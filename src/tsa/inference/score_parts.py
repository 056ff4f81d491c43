"""Raw scores from the parts of a model: the network's engine, the trees, and how their log odds are joined.

Offline scoring, the endpoint and evaluation all use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.store.store import EventStore
from tsa.data.wire import Requests
from tsa.errors import ConfigError
from tsa.inference.engine import Engine, TorchEngine
from tsa.model import TSANetwork
from tsa.model.collate import gather_batch
from tsa.model.network_and_trees import ALONE, Joining, raw_scores
from tsa.model.tree_model import TreeModel
from tsa.progress import Advance

BATCH_SIZE = 512

Array = NDArray[Any]
Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


def score_events(
    network: TSANetwork | Engine,
    store: EventStore,
    rows: Rows,
    *,
    batch_size: int = BATCH_SIZE,
    advance: Advance | None = None,
) -> Scores:
    """(m,) raw scores of a network, the softmax probability of fraud, of the events `rows` (m,) of a store."""
    return raw_scores(event_log_odds(network, store, rows, batch_size=batch_size, advance=advance))


def event_log_odds(
    network: TSANetwork | Engine,
    store: EventStore,
    rows: Rows,
    *,
    batch_size: int = BATCH_SIZE,
    advance: Advance | None = None,
) -> Scores:
    """(m,) float32 log odds of a network, of the events `rows` (m,) of a store.

    The last batch is padded with copies of its last row to a multiple of what the engine computes together, and histories
    are not trimmed. Matrix products round differently for other shapes, and scores must not change by even a bit when later
    events arrive.
    """
    engine = TorchEngine(network) if isinstance(network, TSANetwork) else network
    log_odds = np.empty(len(rows), np.float32)
    for first in range(0, len(rows), batch_size):
        chunk = rows[first : first + batch_size]
        full = np.pad(chunk, (0, -len(chunk) % min(batch_size, engine.rows)), mode="edge")
        log_odds[first : first + len(chunk)] = engine(gather_batch(store, full))[: len(chunk)]
        if advance:
            advance(len(chunk))
    return log_odds


@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """The parts of a model, ready to score. A part that does not count is not computed."""

    engine: Engine
    trees: TreeModel | None = None
    joining: Joining = ALONE["network"]
    second_thread: Executor | None = None
    """Computes the trees of single payments while the network is computed; None: they are computed after it."""

    def of_store(
        self, store: EventStore, rows: Rows, *, batch_size: int = BATCH_SIZE, advance: Advance | None = None
    ) -> Scores:
        """(m,) raw scores of the events `rows` (m,) of a store."""
        log_odds = self.log_odds_of_store(store, rows, self.joining.parts, batch_size=batch_size, advance=advance)
        return raw_scores(self.joining(log_odds))

    def of_requests(self, requests: Requests) -> Scores:
        """(B,) raw scores of single payments."""
        log_odds: dict[str, Array] = {}
        trees: Callable[[], Array] | None = None
        if "trees" in self.joining.parts:
            trees = partial(self._trees().of_payments, requests.seen, requests.engineered)
        if "network" in self.joining.parts:
            if trees is not None and self.second_thread is not None:
                trees = self.second_thread.submit(trees).result
            log_odds["network"] = self.engine(requests)
        if trees is not None:
            log_odds["trees"] = trees()
        return raw_scores(self.joining(log_odds))

    def log_odds_of_store(
        self,
        store: EventStore,
        rows: Rows,
        parts: Sequence[str],
        *,
        batch_size: int = BATCH_SIZE,
        advance: Advance | None = None,
    ) -> dict[str, Array]:
        """(m,) log odds of each of `parts`, of the events `rows` (m,) of a store. advance: called with numbers of rows scored."""
        log_odds: dict[str, Array] = {}
        if "trees" in parts:
            own = None if "network" in parts else advance
            log_odds["trees"] = self._trees().of_store(store, rows, advance=own)
        if "network" in parts:
            log_odds["network"] = event_log_odds(self.engine, store, rows, batch_size=batch_size, advance=advance)
        return log_odds

    def _trees(self) -> TreeModel:
        if self.trees is None:
            raise ConfigError("the bundle must have trees to score with them (got a network alone)")
        return self.trees
