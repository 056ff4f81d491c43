"""How one server is run: addresses, bounds, files of secrets. Checked when made.

Each setting, its bounds, its text of help and its default are declared here once: the options of `tsa serve`
(`tsa.cli.options`) and the environment variables come from these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tsa.config.toml import Layer, findings
from tsa.errors import ConfigError
from tsa.serving.history.identity import Seen


def _option(default: Any, option: str, help: str, *, env: str | None = None, **rules: Any) -> Any:
    """A setting that `tsa serve` takes as `option`, or from the environment variable `env`."""
    return Field(default, description=help, json_schema_extra={"option": option, "env": env}, **rules)


class ServeSettings(BaseModel):
    """Everything that `tsa serve` is told. Bytes, seconds and payments are counted as the names say."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bundle: Path
    """A bundle, or a link to one: where the link comes to point elsewhere, the new bundle is taken over."""
    history: str | None = _option(
        None,
        "--history",
        "Where histories are kept: sqlite:///FILE or redis://HOST:PORT/0.",
        env="TSA_HISTORY",
        repr=False,
    )
    """None only for markets whose rows carry their own history."""
    new_store: bool = _option(
        False, "--new-store", "Start with an empty history store where there is none yet.", env="TSA_NEW_STORE"
    )
    """Without it such a store is refused."""
    allow_eviction: bool = _option(
        False,
        "--allow-eviction",
        "Keep histories in a Redis that may drop keys: what it drops is noticed, and not scored with.",
        env="TSA_ALLOW_EVICTION",
    )
    history_seen: Seen | None = None
    """How another process of this server has seen the history store."""
    overrides: tuple[str, ...] = ()
    """`key=value` over the bundle's market."""
    host: str = _option("127.0.0.1", "--host", "The address to listen on; 0.0.0.0 for all.")
    port: int = _option(8080, "--port", "The port to listen on.", ge=0, lt=2**16)
    workers: int = _option(1, "--workers", "Processes; they share the history store.", ge=1)
    engine: str = _option(
        "auto", "--engine", "torch, onnxruntime, or auto: the latter where it can be.", env="TSA_ENGINE"
    )
    precision: str = _option("float32", "--precision", "float32, bf16 or int8.", env="TSA_PRECISION")
    threads: int = _option(1, "--threads", "Threads of the model in each worker.", env="TSA_THREADS", ge=1)
    shadow: Path | None = _option(None, "--shadow", "A second bundle that scores the same payments, unseen.")
    """Its differences are counted and written, nothing else comes of it."""
    shadow_file: Path | None = _option(None, "--shadow-file", "JSON lines with the shadow's differences.")
    shadow_difference: float = Field(0.01, ge=0)
    """Raw scores that differ by less are not written."""
    watch_seconds: float = Field(2.0, ge=0)
    """How often the bundle is looked at for a change; 0 for never."""

    max_batch: int = _option(32, "--max-batch", "Payments that the model takes at a time.", ge=1)
    """As far as they have come; a longer list is one batch of its own."""
    batch_wait_ms: float = _option(0.0, "--batch-wait-ms", "How long a batch that is not full waits for more.", ge=0)
    max_queue: int = _option(64, "--max-queue", "Payments that may wait; more are refused with 429.", ge=1)
    max_queue_wait_ms: float = _option(
        100.0,
        "--max-queue-wait-ms",
        "How long the first of a whole batch may wait before more are refused with 429.",
        gt=0,
    )
    deadline_ms: float = Field(10_000.0, gt=0)
    """Of a request that brings no X-Deadline-Ms."""
    stop_seconds: float = Field(25.0, gt=0)
    """After `drain_seconds`: how long accepted requests may take to finish."""

    max_list: int = _option(1000, "--max-list", "Payments in a request.", env="TSA_MAX_LIST", ge=1)
    max_bytes: int = _option(4 * 2**20, "--max-bytes", "Bytes of a request's body.", ge=1)
    max_depth: int = Field(6, ge=1)
    """Of nested lists and objects."""
    max_text: int = Field(4096, ge=1)
    """Characters of a value; rows that carry their own history are bounded by `max_bytes` alone."""
    read_seconds: float = Field(10.0, gt=0)
    """How long a body may take to arrive."""
    rate: float | None = _option(None, "--rate", "Payments a second that one client may send.", gt=0)
    """On average; None for no limit."""
    burst: float = Field(200.0, gt=0)
    """Payments that a client may send at once."""

    token_env: tuple[str, ...] = _option(
        (), "--token-env", "An environment variable with a token that may score. Repeatable."
    )
    token_files: tuple[Path, ...] = _option((), "--token-file", "A file of such tokens, one a line. Repeatable.")
    admin_token_env: tuple[str, ...] = _option(
        (), "--admin-token-env", "An environment variable with a token that may reload. Repeatable."
    )
    admin_token_files: tuple[Path, ...] = _option((), "--admin-token-file", "A file of such tokens. Repeatable.")
    """Without any token that may reload, nobody may."""
    ssl_certificate: Path | None = _option(None, "--certificate", "PEM file for TLS.")
    ssl_key: Path | None = _option(None, "--key", "PEM file with its key.")
    ssl_client_ca: Path | None = _option(None, "--client-ca", "PEM file: clients must show a certificate of these.")
    public_key: Path | None = _option(None, "--public-key", "PEM file: serve only bundles that its private key signed.")
    drain_seconds: float = _option(
        1.0, "--drain-seconds", "Seconds of saying 503 after SIGTERM before the socket closes.", ge=0
    )

    @classmethod
    def make(cls, values: dict[str, Any], layers: Sequence[Layer] = ()) -> Self:
        """Build from a plain dict. layers: where values came from, such as environment variables, which messages then name.

        Raises:
            ConfigError: Naming each setting, its value and the rule that it breaks.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError("; ".join(findings(error, cls, layers))) from None

    @classmethod
    def variables(cls) -> dict[str, str]:
        """The environment variables that settings may come from, each with the name of its setting."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {str(x["env"]): name for name, x in extras.items() if isinstance(x, dict) and x.get("env")}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.workers > 1 and _in_memory(self.history):
            raise ValueError(
                f"history must be a file or a server that all workers share (got {self.history}, workers={self.workers})"
            )
        if self.drain_seconds + self.stop_seconds > 30:
            got = f"drain_seconds={self.drain_seconds}, stop_seconds={self.stop_seconds}"
            raise ValueError(f"drain_seconds and stop_seconds must be at most 30 together (got {got})")
        if (self.ssl_key is None) != (self.ssl_certificate is None):
            got = f"ssl_key={self.ssl_key}, ssl_certificate={self.ssl_certificate}"
            raise ValueError(f"ssl_key and ssl_certificate must be given together (got {got})")
        if self.ssl_client_ca is not None and self.ssl_certificate is None:
            rule = "ssl_client_ca must be given with ssl_certificate and ssl_key"
            raise ValueError(f"{rule} (got ssl_client_ca={self.ssl_client_ca})")
        return self

    def read_key(self) -> bytes | None:
        """The public key that bundles must be signed with; None where they need not be."""
        return None if self.public_key is None else self.public_key.read_bytes()


def _in_memory(history: str | None) -> bool:
    """Whether each process would have histories of its own."""
    return history is not None and history.startswith("sqlite:") and (":memory:" in history or "mode=memory" in history)
