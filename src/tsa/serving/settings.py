"""How one server is run: addresses, bounds, files of secrets. Checked when made.

Each setting, its bounds, its text of help and its default are declared here once: the options of `tsa serve`
(`tsa.cli.options`) and the environment variables come from these fields.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from tsa.config.settings import Settings, option
from tsa.errors import ConfigError
from tsa.files.reading import read_small_file
from tsa.serving.decisions.kafka import is_kafka
from tsa.serving.history.identity import Seen
from tsa.webhooks import address_problem


class ServeSettings(Settings):
    """The settings of `tsa serve`. Units are in the names."""

    by_option: ClassVar[bool] = True

    bundle: Path
    """A bundle, or a link to one: if the link changes, the new bundle is loaded."""
    bundle_from: str | None = option(
        None,
        "--bundle-from",
        "Serve the bundle that an alias of a registry names, and follow it: REGISTRY@ALIAS.",
    )
    """`bundle` is then the link of `tsa.registry.AliasFollower` to the local copy."""
    bundle_cache: Path = option(
        Path("~/.cache/tsa/bundles"), "--bundle-cache", "Folder for copies of bundles from a registry."
    )
    history: str | None = option(
        None,
        "--history",
        "The history store: sqlite:///FILE or redis://HOST:PORT/0.",
        env="TSA_HISTORY",
        repr=False,
    )
    """None only for markets whose rows carry their own history."""
    new_store: bool = option(
        False, "--new-store", "Start with an empty history store if there is none yet.", env="TSA_NEW_STORE"
    )
    """Otherwise a missing store is an error."""
    allow_eviction: bool = option(
        False,
        "--allow-eviction",
        "Allow a Redis that may evict keys. Payments of an evicted history are refused or scored without it.",
        env="TSA_ALLOW_EVICTION",
    )
    history_seen: Seen | None = None
    """State of the history store as read by another process of this server."""
    overrides: tuple[str, ...] = ()
    """`key=value` settings that override the bundle's market."""
    host: str = option("127.0.0.1", "--host", "The address to listen on; 0.0.0.0 for all.")
    port: int = option(8080, "--port", "The port to listen on.", ge=0, lt=2**16)
    workers: int = option(1, "--workers", "Processes; they share the history store.", ge=1)
    engine: str = option("auto", "--engine", "torch, onnxruntime, or auto: onnxruntime if possible.", env="TSA_ENGINE")
    precision: str = option("float32", "--precision", "float32, bf16 or int8.", env="TSA_PRECISION")
    threads: int = option(1, "--threads", "Threads of the model in each worker.", env="TSA_THREADS", ge=1)
    shadow: Path | None = option(
        None, "--shadow", "A second bundle that scores the same payments without affecting answers."
    )
    """Differences of its scores are only counted and written."""
    shadow_from: str | None = option(
        None,
        "--shadow-from",
        "Like --shadow, the bundle that an alias of a registry names, such as REGISTRY@challenger.",
    )
    """`shadow` is then the link to the local copy; as long as there is none, nothing scores as shadow."""
    shadow_file: Path | None = option(None, "--shadow-file", "JSON lines with the shadow's differences.")
    shadow_difference: float = Field(0.01, ge=0)
    """Smaller differences of raw scores are not written."""
    challenger: Path | None = option(
        None, "--challenger", "A second bundle that answers a share of the payments (docs/how-to/decisions.md)."
    )
    challenger_share: float = option(
        0.1, "--challenger-share", "Share of the keys whose payments the challenger answers.", ge=0, le=1
    )
    split_by: str | None = option(
        None, "--split-by", "The history whose key decides between champion and challenger; by default the first."
    )
    challenger_timeout_ms: float = option(
        250.0, "--challenger-timeout-ms", "The champion answers where the challenger takes longer.", gt=0
    )
    decision_log: str | None = option(
        None,
        "--decision-log",
        "A folder for a log of all answers, or kafka://HOST:PORT/TOPIC (docs/how-to/decisions.md).",
        repr=False,
    )
    decision_log_sync: bool = option(
        False, "--decision-log-sync", "Flush each decision to the disk before it is answered."
    )
    decision_flush: float = option(
        10.0, "--decision-flush", "Without --decision-log-sync: seconds of decisions that a crash may lose.", gt=0
    )
    decision_rotate: float = option(
        600.0, "--decision-rotate", "Seconds after which logged decisions become a Parquet file.", gt=0
    )
    queue: bool = option(
        False, "--queue", "Show payments to analysts at /queue. Needs --decision-log and a token with the role analyst."
    )
    queue_over: str | None = option(
        None,
        "--queue-over",
        "SCORE=NUMBER: show payments with at least this score. Without it: payments whose decision is not the bundle's "
        "default decision; if the bundle has no thresholds, those in the top 2 % by percentile.",
    )
    queue_lease_minutes: float = option(
        10.0,
        "--queue-lease-minutes",
        "Minutes for which a payment that an analyst opened is shown to no one else.",
        gt=0,
    )
    queue_later_minutes: float = option(
        60.0, "--queue-later-minutes", "Minutes until a payment that was put off is shown again.", gt=0
    )
    queue_webhook: str | None = option(
        None, "--queue-webhook", "An http or https address to which analysts can hand payments on.", repr=False
    )
    queue_webhook_secret_env: str | None = option(
        None,
        "--queue-webhook-secret-env",
        "Name of an environment variable with the secret that signs what is handed on.",
    )
    watch_seconds: float = Field(2.0, ge=0)
    """How often the bundle is checked for a change; 0 for never."""
    allow_unevaluated: bool = option(
        False,
        "--allow-unevaluated",
        "Let a new bundle replace the running one even if it was not evaluated, or has no thresholds although the running "
        "one has.",
    )

    max_batch: int = option(32, "--max-batch", "Largest batch of payments for the model.", ge=1)
    """A request with a longer list is one batch."""
    batch_wait_ms: float = option(
        0.0, "--batch-wait-ms", "How long a batch that is not full waits for more payments.", ge=0
    )
    max_queue: int = option(
        64, "--max-queue", "Largest number of payments that may wait; more are refused with 429.", ge=1
    )
    max_queue_wait_ms: float = option(
        100.0,
        "--max-queue-wait-ms",
        "More payments are refused with 429 if a full batch is queued and its first payment has waited this long.",
        gt=0,
    )
    deadline_ms: float = Field(10_000.0, gt=0)
    """Deadline of a request without X-Deadline-Ms."""
    stop_seconds: float = Field(25.0, gt=0)
    """After `drain_seconds`: how long accepted requests may take to finish."""

    max_list: int = option(1000, "--max-list", "Largest number of payments in a request.", env="TSA_MAX_LIST", ge=1)
    max_bytes: int = option(4 * 2**20, "--max-bytes", "Largest body of a request, in bytes.", ge=1)
    max_depth: int = Field(6, ge=1)
    """Deepest nesting of lists and objects."""
    max_text: int = Field(4096, ge=1)
    """Largest number of characters of a value; rows that carry their own history are limited by `max_bytes` only."""
    read_seconds: float = Field(10.0, gt=0)
    """How long a body may take to arrive."""
    rate: float | None = option(None, "--rate", "Payments a second that one client may send.", gt=0)
    """On average; None for no limit."""
    burst: float = Field(200.0, gt=0)
    """Payments that a client may send at once."""

    token_env: tuple[str, ...] = option(
        (),
        "--token-env",
        "Name of an environment variable whose value is 'TOKEN [ROLES [NAME]]'. Without ROLES the role is score. "
        "Repeatable.",
    )
    token_files: tuple[Path, ...] = option((), "--token-file", "A file of such tokens, one a line. Repeatable.")
    """Roles are score, analyst and admin, separated by commas. A token without roles has the role score."""
    admin_token_env: tuple[str, ...] = option(
        (), "--admin-token-env", "Like --token-env, but a token without roles has the role admin. Repeatable."
    )
    admin_token_files: tuple[Path, ...] = option((), "--admin-token-file", "A file of such tokens. Repeatable.")
    """Without an admin token nobody may reload."""
    ssl_certificate: Path | None = option(None, "--certificate", "PEM file with the certificate for TLS.")
    ssl_key: Path | None = option(None, "--key", "PEM file with the certificate's private key.")
    ssl_client_ca: Path | None = option(
        None, "--client-ca", "PEM file of authorities: clients must present a certificate signed by one of them."
    )
    public_key: Path | None = option(None, "--public-key", "PEM file: serve only bundles that its private key signed.")
    drain_seconds: float = option(
        1.0, "--drain-seconds", "Seconds to answer 503 after SIGTERM before the socket closes.", ge=0
    )

    @classmethod
    def variables(cls) -> dict[str, str]:
        """The environment variables of settings: variable name -> setting name."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {str(x["env"]): name for name, x in extras.items() if isinstance(x, dict) and x.get("env")}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.workers > 1 and _in_memory(self.history):
            raise ValueError(
                f"--history must be a file or a server that all workers share (got {self.history}, --workers {self.workers})"
            )
        if self.drain_seconds + self.stop_seconds > 30:
            got = f"drain_seconds={self.drain_seconds}, stop_seconds={self.stop_seconds}"
            raise ValueError(f"drain_seconds and stop_seconds must be at most 30 together (got {got})")
        if (self.ssl_key is None) != (self.ssl_certificate is None):
            got = f"--certificate {self.ssl_certificate}" if self.ssl_key is None else f"--key {self.ssl_key}"
            raise ValueError(f"--certificate and --key must be given together (got {got} alone)")
        if self.decision_log_sync and self.decision_log is None:
            raise ValueError("--decision-log-sync needs --decision-log FOLDER (got none)")
        self._check_queue()
        if self.ssl_client_ca is not None and self.ssl_certificate is None:
            raise ValueError(f"--client-ca needs --certificate and --key (got --client-ca {self.ssl_client_ca} alone)")
        self._check_second_bundles()
        return self

    @property
    def decision_folder(self) -> Path | None:
        """The folder of the log of decisions; None without a log, or if it is a Kafka topic."""
        return None if self.decision_log is None or is_kafka(self.decision_log) else Path(self.decision_log)

    @field_validator("decision_log", mode="before")
    @classmethod
    def _text_of_path(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    def _check_queue(self) -> None:
        if self.queue and self.decision_folder is None:
            got = "none" if self.decision_log is None else "a Kafka topic"
            raise ValueError(f"--queue needs --decision-log FOLDER (got {got})")
        if self.queue_webhook is not None and (problem := address_problem(self.queue_webhook)) is not None:
            raise ValueError(f"--queue-webhook {problem}")
        options = {"--queue-over": self.queue_over, "--queue-webhook": self.queue_webhook}
        if not self.queue and (alone := [name for name, value in options.items() if value is not None]):
            raise ValueError(f"{alone[0]} needs --queue (got none)")

    def _check_second_bundles(self) -> None:
        """Refuse settings of a challenger or a shadow that is not there."""
        if self.challenger is None:
            for name in ("challenger_share", "split_by", "challenger_timeout_ms"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{self.option_of(name)} needs --challenger (got none): give the bundle")
        if self.shadow_file is not None and self.shadow is None and self.shadow_from is None:
            raise ValueError(
                f"--shadow-file needs --shadow or --shadow-from (got --shadow-file {self.shadow_file} alone)"
            )

    def read_webhook_secret(self) -> str | None:
        """The secret that signs what is handed on; None for no signature. Raises ConfigError if the variable is empty."""
        name = self.queue_webhook_secret_env
        if name is None:
            return None
        secret = os.environ.get(name, "")
        if not secret:
            raise ConfigError(f"the environment variable {name} must contain the secret of the webhook (got nothing)")
        return secret

    def read_key(self) -> bytes | None:
        """Read the public key that verifies bundles; None if bundles need not be signed."""
        return None if self.public_key is None else read_small_file(self.public_key)


def _in_memory(history: str | None) -> bool:
    """Whether the store is in memory, so that each process would have its own."""
    return history is not None and history.startswith("sqlite:") and (":memory:" in history or "mode=memory" in history)
