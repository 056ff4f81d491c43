"""A wire request of 105 kB at the endpoint, EU size: `tsa serve` beside a server that goes the legacy system's way, in one run.

    python benchmarks/wire_endpoint.py [--requests 200]

Every server is a process of its own with one thread for its model, and answers `POST /invocations` on the loopback with the three
scores as the legacy system spells them. The plain one reads a JSON row value by value, runs the network eagerly over all positions
(`wire.py`, `reference_forward.py`), and has the same HTTP server around it, without checks, queue, limits or metrics. The client
sends each request to all of them in turn, so that a slow moment of the machine meets all alike. Weights are random and
rows simulated (markets/eu.toml); scores are compared.
"""

from __future__ import annotations

import os

os.environ.setdefault("TSA_EU_SECRET", "only the benchmark knows this secret")

import argparse
import contextlib
import json
import math
import socket
import sys
import tempfile
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from reference_forward import PlainReference, original_state
from serve import serving, started
from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import ImportedScaler, ScalerGroup
from tsa.data.store.prepare import prepare
from tsa.inference.export_bundle import export_bundle
from tsa.legacy.response import legacy_response
from tsa.model import TSANetwork, preset
from tsa.model.batch import Batch, History
from tsa.training.model_config import network_sizes
from wire import MARKET, PAYMENTS_EACH, PlainReader, simulated

ROWS = 600
SERVERS = {
    "tsa, PyTorch": ("--engine=torch",),
    "tsa, ONNX Runtime": ("--engine=onnxruntime",),
    "tsa, PyTorch bf16": ("--engine=torch", "--precision=bf16"),
    "tsa, ONNX Runtime int8": ("--engine=onnxruntime", "--precision=int8"),
}
PLAIN = "plain"


def made_bundle(market: Market, rows: Path, folder: Path) -> Path:
    """A bundle as of an imported model: EU size, random weights, a calibration as if it meant something."""
    encoder = as_imported(prepare(market, rows, folder / "store").encoder)
    config = preset("reference", **network_sizes(market, encoder))
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    scores = random.beta(1, 5, 3000)
    labels = (random.random(3000) < scores).astype(np.int8)
    bundle = Bundle(
        market=market,
        encoder=encoder,
        config=config,
        network=TSANetwork(config).eval(),
        training={"imported": {}},
        calibration=Calibration.fit(scores=scores, labels=labels),
    )
    bundle.save(folder / "bundle")
    for precision in ("float32", "int8"):
        export_bundle(folder / "bundle", precision)
    return folder / "bundle"


def as_imported(encoder: Encoder) -> Encoder:
    """Scales as the legacy system has them: x · slope + offset, a default for what is missing, no columns that mark it."""

    def given(scaling: ScalerGroup) -> ScalerGroup:
        return ScalerGroup(
            tuple(ImportedScaler(name=s.name, slope=1 / highest(s), offset=0, default=0) for s in scaling.scalers)
        )

    return replace(
        encoder,
        numerical_scaling=given(encoder.numerical_scaling),
        engineered_scaling=given(encoder.engineered_scaling),
    )


def highest(scaler: Any) -> float:
    """About the largest raw value."""
    top = abs(scaler.centre) + 2 * scaler.width
    return math.expm1(top) if scaler.transform == "log1p" else top


class PlainApplication:
    """An ASGI application that goes the legacy system's way."""

    def __init__(self, bundle: Bundle) -> None:
        self.reader = PlainReader(bundle.market, bundle.encoder)
        self.network = PlainReference(original_state(bundle.network), bundle.config)
        self.name, self.calibration = bundle.market.history[0].name, bundle.calibration

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        answer = self.answer(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def answer(self, body: bytes) -> bytes:
        """Three scores of one row."""
        read = self.reader.read(body)
        outcome = np.zeros(read["padding"].shape, np.int8)
        arrays = {name: value[None] for name, value in read.items() if name != "engineered"}
        history = History(
            **{name: torch.from_numpy(value) for name, value in (arrays | {"outcome": outcome[None]}).items()}
        )
        batch = Batch({self.name: history}, torch.from_numpy(read["engineered"][None]))
        with torch.no_grad():
            raw = self.network(batch).softmax(-1)[:, 1].numpy()
        return json.dumps(legacy_response(raw, self.calibration)).encode()


def serve_plain(bundle: Path, port: int) -> None:
    import uvicorn

    torch.set_num_threads(1)
    uvicorn.run(PlainApplication(Bundle.open(bundle)), port=port, log_level="error", lifespan="off")


def connected(port: int) -> HTTPConnection:
    """A connection that is kept; what is written to it is sent at once."""
    client = HTTPConnection("127.0.0.1", port, timeout=30)
    client.connect()
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def asked(client: HTTPConnection, line: bytes) -> Any:
    """What the server answers to a row."""
    client.request("POST", "/invocations", line, {"content-type": "application/json"})
    answer = client.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {body[:500]!r}")
    return json.loads(body)


def compare(ports: dict[str, int], lines: list[bytes]) -> None:
    taken: dict[str, list[float]] = {name: [] for name in ports}
    scores: dict[str, list[float]] = {name: [] for name in ports}
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(contextlib.closing(connected(port))) for name, port in ports.items()}
        for warm, line in enumerate([*lines[:5], *lines]):
            for name, client in clients.items():
                begun = perf_counter()
                answer = asked(client, line)
                seconds = perf_counter() - begun
                if warm >= 5:
                    taken[name].append(seconds * 1e3)
                    scores[name].append(float(answer["predictions"][0]["legacy-score"]))
    size = sum(map(len, lines)) / len(lines) / 1e3
    print(f"{len(lines)} requests of {size:.0f} kB, one client, one thread per model")
    base = np.percentile(taken[PLAIN], 50)
    for name, found in taken.items():
        p50, p99 = np.percentile(found, [50, 99])
        apart = np.abs(np.subtract(scores[name], scores[PLAIN])).max()
        print(f"  {name:<24} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  x {base / p50:.2f}   scores within {apart:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        serve_plain(options.plain, options.port)
        return
    market = Market.load(MARKET, ["label.delay_days=0", "privacy.retention_days=100000"])
    with tempfile.TemporaryDirectory(prefix="tsa-endpoint-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        rows = simulated(market, ROWS, ROWS // PAYMENTS_EACH + 1, folder / "rows.jsonl")
        bundle = made_bundle(market, rows, folder)
        plain = started([sys.executable, __file__, "--plain", bundle])
        ports = {PLAIN: stack.enter_context(plain)[0]}
        for server, words in SERVERS.items():
            history = f"sqlite:///{folder}/histories.db"
            ports[server] = stack.enter_context(serving(bundle, history, [*words, "--threads=1"]))[0]
        compare(ports, rows.read_bytes().splitlines()[: options.requests])


if __name__ == "__main__":
    main()
