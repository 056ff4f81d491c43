"""How one server is run: addresses, bounds, files of secrets. Checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from tsa.errors import ConfigError
from tsa.serving.history.identity import Seen


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Everything that `tsa serve` is told. Bytes, seconds and payments are counted as the names say."""

    bundle: Path
    """A bundle, or a link to one: where the link comes to point elsewhere, the new bundle is taken over."""
    history: str | None = field(default=None, repr=False)
    """sqlite:///FILE or redis://HOST:PORT/DB; None only for markets whose rows carry their own history."""
    new_store: bool = False
    """Whether to start with an empty history store where there is none yet; else it is refused."""
    allow_eviction: bool = False
    """Whether a Redis may be one that drops keys when its memory is full; what it drops is noticed."""
    history_seen: Seen | None = None
    """How another process of this server has seen the history store."""
    overrides: tuple[str, ...] = ()
    """`key=value` over the bundle's market."""
    public_key: Path | None = None
    """PEM file: only bundles that were signed with its private key are served."""
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    engine: str = "auto"
    precision: str = "float32"
    threads: int = 1
    """Of the model, in each worker."""
    shadow: Path | None = None
    """A second bundle that scores the same payments; its differences are counted and written, nothing else comes of it."""
    shadow_file: Path | None = None
    """JSON lines of these differences."""
    shadow_difference: float = 0.01
    """Raw scores that differ by less are not written."""
    watch_seconds: float = 2.0
    """How often the bundle is looked at for a change; 0 for never."""

    max_batch: int = 32
    """Payments that the model thread takes at a time, as far as they have come; a longer list is one batch of its own."""
    batch_wait_ms: float = 0.0
    """How long a batch that is not full waits for more."""
    max_queue: int = 64
    """Payments that may wait; with more, a request is refused with 429."""
    max_queue_wait_ms: float = 100.0
    """Once a whole batch waits, and its first payment has waited longer, a request is refused with 429 as well."""
    deadline_ms: float = 10_000.0
    """Of a request that brings no X-Deadline-Ms."""
    drain_seconds: float = 1.0
    """After SIGTERM: how long new requests still hear 503 before the listening socket is closed."""
    stop_seconds: float = 25.0
    """After that: how long accepted requests may take to finish."""

    max_bytes: int = 4 * 2**20
    """Of a request's body."""
    max_list: int = 1000
    """Payments in a request."""
    max_depth: int = 6
    """Of nested lists and objects."""
    max_text: int = 4096
    """Characters of a value; rows that carry their own history are bounded by `max_bytes` alone."""
    read_seconds: float = 10.0
    """How long a body may take to arrive."""
    rate: float | None = None
    """Payments a second that one client may send, on average; None for no limit."""
    burst: float = 200.0
    """Payments that a client may send at once."""

    token_env: tuple[str, ...] = ()
    """Environment variables, each with a bearer token that may score."""
    token_files: tuple[Path, ...] = ()
    """Files with such tokens, one a line."""
    admin_token_env: tuple[str, ...] = ()
    admin_token_files: tuple[Path, ...] = ()
    """The same for those that may reload. Without any, nobody may."""
    ssl_certificate: Path | None = None
    ssl_key: Path | None = None
    ssl_client_ca: Path | None = None
    """Clients must show a certificate that one of these authorities signed."""

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "max_batch", "max_queue", "max_bytes", "max_list", "max_depth", "max_text"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_queue_wait_ms", "deadline_ms", "stop_seconds", "read_seconds", "burst"):
            self._check(name, 0 < getattr(self, name) < math.inf, "above 0")
        for name in ("batch_wait_ms", "drain_seconds", "watch_seconds", "shadow_difference"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        if self.workers > 1 and _in_memory(self.history):
            raise ConfigError(
                f"history must be a file or a server that all workers share (got {self.history}, workers={self.workers})"
            )
        self._check("port", 0 <= self.port < 2**16, "0 to 65535")
        self._check("rate", self.rate is None or 0 < self.rate < math.inf, "above 0")
        self._check("drain_seconds", self.drain_seconds + self.stop_seconds <= 30, "at most 30 with stop_seconds")
        self._check("ssl_key", (self.ssl_key is None) == (self.ssl_certificate is None), "given with ssl_certificate")
        secured = self.ssl_client_ca is None or self.ssl_certificate is not None
        self._check("ssl_client_ca", secured, "given with ssl_certificate and ssl_key")

    def read_key(self) -> bytes | None:
        """The public key that bundles must be signed with; None where they need not be."""
        return None if self.public_key is None else self.public_key.read_bytes()

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"{name} must be {rule} (got {getattr(self, name)})")


def _in_memory(history: str | None) -> bool:
    """Whether each process would have histories of its own."""
    return history is not None and history.startswith("sqlite:") and (":memory:" in history or "mode=memory" in history)
