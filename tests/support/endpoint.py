"""Small bundles that nobody trained, made in a moment, and servers of them on loopback, in a thread or a process of their own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import torch

from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.key_roles import compared_keys
from tsa.data.log.reader import TIME
from tsa.model import ModelConfig, TSANetwork
from tsa.model.config import preset
from tsa.serving.settings import ServeSettings
from tsa.serving.worker import Server
from tsa.training.model_config import network_sizes

TSA = Path(sys.executable).with_name("tsa")
NOW = 1_700_000_000
SHOP: dict[str, Any] = {
    "name": "shop",
    "event": {"id": "id", "time": "at", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 1, "as_feature": True},
    "history": [
        {"name": "customer", "key": "customer_id", "length": 5},
        {"name": "terminal", "key": "terminal_id", "length": 4},
    ],
    "features": {
        "calendar": ["hour_of_day"],
        "categorical": [{"name": "device", "min_count": 1}, {"name": "country", "min_count": 1}],
        "numerical": [{"name": "amount", "transform": "log1p"}],
        "engineered": [{"name": "account_days"}],
    },
}
WIRE: dict[str, Any] = {
    "name": "carried",
    "event": {"id": "id", "time": "at", "time_unit": "s", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 0},
    "history": [{"name": "customer", "key": "customer_id", "length": 5}],
    "features": {"categorical": [{"name": "device", "min_count": 1}], "numerical": [{"name": "amount"}]},
    "wire": {"separator": "~"},
}
PAYMENT = {
    "id": "p1",
    "at": "2025-04-20T12:00:00Z",
    "customer_id": "ann",
    "terminal_id": "t1",
    "device": "phone",
    "country": "DE",
    "amount": 12.5,
    "account_days": 30,
}
CARRIED = {
    "id": "p1",
    "at": str(NOW),
    "device": "phone",
    "amount": "5",
    "hist.device": "tablet~phone",
    "hist.amount": "1~2",
    "hist.cat.at": f"{NOW - 200}~{NOW - 100}",
    "hist.num.at": f"{NOW - 200}~{NOW - 100}",
    "hist.cat.id": "a~b",
    "hist.num.id": "a~b",
}


def payment(id_: str, **changes: Any) -> dict[str, Any]:
    """A payment of the shop under another id."""
    return {**PAYMENT, "id": id_, **changes}


def encoder_of(market: Market) -> Encoder:
    """Fitted on four payments."""
    frame = {
        "device": ["phone", "tablet", "phone", None],
        "country": ["DE", "FR", None, "DE"],
        "amount": [0.0, 10.0, 100.0, None],
        "account_days": [1.0, 30.0, None, 300.0],
        TIME: [float(NOW)] * 4,
    }
    return Encoder.fit(market, pl.DataFrame(frame))


def config_of(market: Market, encoder: Encoder) -> ModelConfig:
    return preset(
        "default",
        **network_sizes(market, encoder),
        known_outcomes=market.label.as_feature,
        n_match_features=len(market.features.categorical),
        n_match_keys=len(compared_keys(market)),
        n_missing_indicators=encoder.numerical_scaling.n_missing_indicators,
        width=16,
    )


EVALUATION = {"n": 3000, "frauds": 500, "threshold": 0.5, "metrics": {}, "segments": {}}


def made_bundle(
    path: Path, table: Mapping[str, Any] = SHOP, *, seed: int = 0, imported: bool = False, evaluated: bool = True
) -> Path:
    """A bundle with random weights, and a calibration and evaluation as if they meant something."""
    market = Market.from_dict(dict(table))
    encoder = encoder_of(market)
    config = config_of(market, encoder)
    torch.manual_seed(seed)
    scores = np.random.default_rng(0).beta(1, 5, 3000)
    labels = (np.random.default_rng(1).random(3000) < scores).astype(np.int8)
    bundle = Bundle(
        market=market,
        encoder=encoder,
        config=config,
        network=TSANetwork(config).eval(),
        training={"imported": {}} if imported else {},
        calibration=Calibration.fit(scores=scores, labels=labels),
        metrics={"evaluation": EVALUATION} if evaluated else None,
    )
    bundle.save(path)
    return path


def settings_of(bundle: Path, **changes: Any) -> ServeSettings:
    """Settings for tests: histories beside the bundle, no waiting at the end."""
    found: dict[str, Any] = {
        "bundle": bundle,
        "history": f"sqlite:///{bundle.parent}/histories.db",
        "new_store": True,
        "port": 0,
        "drain_seconds": 0.0,
        "stop_seconds": 5.0,
        "watch_seconds": 0.0,
    }
    return ServeSettings(**{**found, **changes})


@contextlib.contextmanager
def server(bundle: Path, **changes: Any) -> Iterator[tuple[Server, int]]:
    """A real server on loopback, in a thread of this process: the server and its port."""
    found = Server(settings_of(bundle, **changes))
    thread = threading.Thread(target=found.run, daemon=True)
    thread.start()
    for _ in range(400):
        if found.started:
            break
        time.sleep(0.02)
    assert found.started
    try:
        yield found, found.servers[0].sockets[0].getsockname()[1]
    finally:
        found.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextlib.contextmanager
def endpoint(bundle: Path, **changes: Any) -> Iterator[httpx.Client]:
    """A client of a server."""
    with (
        server(bundle, **changes) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        yield client


@contextlib.contextmanager
def served(bundle: Path | None, history: str, *options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`tsa serve` in a process of its own, which is killed in the end, and its address. None if the options name the bundle."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        TSA,
        "serve",
        *([] if bundle is None else [bundle]),
        "--history",
        history,
        "--new-store",
        "--port",
        port,
        *options,
    ]
    process = subprocess.Popen([str(word) for word in words], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            assert process.poll() is None, process.stderr and process.stderr.read()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200:
                    break
            time.sleep(0.05)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def certificates(folder: Path) -> None:
    """An authority, a server and a client that it signed, and a client that nobody knows."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def name_of(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def make(name: str, issuer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(name_of(name))
            .issuer_name(name_of(name) if issuer is None else issuer[0].subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key if issuer is None else issuer[1], hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        (folder / f"{name}.key").write_bytes(private)
        return built, key

    authority = make("authority", None)
    make("server", authority)
    make("client", authority)
    make("stranger", None)


def context_of(folder: Path, client: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
    if client is not None:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    return context
