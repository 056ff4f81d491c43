"""A floor for `tsa serve`: the same HTTP server around a bare function that computes the model on arrays made beforehand.

    python benchmarks/floor.py BUNDLE LOG --port 8081

It reads the body as JSON and writes an answer of the same size as JSON. Between the two it runs the network's graph and the
trees of BUNDLE for one payment, on arrays of the last payments of LOG, gathered before the first request: no check of the
request, no history store, no batching, no other thread. `benchmarks/serve.py --floor` starts it and compares.
"""

from __future__ import annotations

import argparse
import gc
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import torch
import uvicorn
from numpy.typing import NDArray

from tsa.data.store.store import EventStore
from tsa.inference.engine import OnnxEngine, named_inputs
from tsa.inference.scorer import Scorer
from tsa.model.collate import gather_batch
from tsa.model.network_and_trees import raw_scores
from tsa.serving.http.protocol import Protocol

PREPARED = 256
"""Payments whose arrays are ready; requests use them in turn."""


def prepared_model(scorer: Scorer, store: EventStore, parts: Sequence[Any]) -> Callable[[int], NDArray[np.float32]]:
    """A function from the number of a part to the raw scores of its payments, of which only the model's own work is left.

    Args:
        scorer: The model.
        store: Its payments.
        parts: Rows of the store, as arrays.
    """
    model = scorer.model
    feeds: list[Any] = [gather_batch(store, part) for part in parts]
    columns = None
    if "trees" in model.joining.parts and model.trees is not None:
        columns = [np.concatenate(list(model.trees.columns.parts(store, part))) for part in parts]
    engine: Any = model.engine
    network: Callable[[Any], Any] = engine
    if isinstance(engine, OnnxEngine):
        session = engine._session
        names = {entry.name for entry in session.get_inputs()}
        feeds = [{name: value for name, value in named_inputs(batch).items() if name in names} for batch in feeds]
        network = lambda feed: session.run(["log_odds"], feed)[0]  # noqa: E731

    def score(at: int) -> NDArray[np.float32]:
        log_odds: dict[str, Any] = {}
        if "network" in model.joining.parts:
            log_odds["network"] = network(feeds[at])
        if columns is not None and model.trees is not None:
            log_odds["trees"] = model.trees.trees.log_odds(columns[at])
        return raw_scores(model.joining(log_odds))

    return score


def application(model: Callable[[int], NDArray[np.float32]], prepared: int) -> Callable[..., Any]:
    """A bare ASGI function. prepared: how many payments are ready."""
    places = itertools.cycle(range(prepared))

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = (await receive())["body"]
        payment = orjson.loads(body)
        raw = float(model(next(places))[0])
        document = {"id": payment.get("id"), "raw_score": raw, "percentile": raw, "probability": raw, "decision": None}
        content = orjson.dumps({**document, "version": "0123456789ab", "degraded": False, "replayed": False})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scorer = Scorer.load(arguments.bundle, engine="auto")
    with scorer.encoded(pl.read_parquet(arguments.log).tail(20_000)) as store, torch.inference_mode():
        rows = store.scored_rows()[-PREPARED:]
        model = prepared_model(scorer, store, [rows[at : at + 1] for at in range(len(rows))])
    model(0)
    gc.collect()
    gc.freeze()
    uvicorn.run(
        application(model, len(rows)),
        http=Protocol,
        ws="none",
        port=arguments.port,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
    )


if __name__ == "__main__":
    main()
