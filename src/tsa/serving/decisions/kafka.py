"""The log of decisions of one server process as messages of a Kafka topic: `kafka://HOST:PORT[,HOST:PORT…]/TOPIC`.

Each entry is one message of JSON, the line that a journal would have; its key is the payment's id, so that the entries of a
payment are in one partition, in order. Needs `confluent-kafka`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tsa.errors import ConfigError
from tsa.files.reading import read_small_file
from tsa.optional_libraries import imported
from tsa.serving.decisions.entries import line_of

SCHEME = "kafka://"
PROPERTIES = "properties"
"""The option that names a file of settings of the client, such as passwords: NAME=VALUE lines, as Kafka's tools read them."""
SYNC_SECONDS = 5.0
"""With `sync`: how long an entry may take to reach the brokers."""
DELIVERY_SECONDS = 60.0
"""Without: after this time an entry is lost."""
POLL_SECONDS = 0.1

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

Entry = Mapping[str, Any]
Count = Callable[[int], None]

_log = logging.getLogger(__name__)


def is_kafka(address: str | None) -> bool:
    """Whether a log of decisions is a Kafka topic."""
    return address is not None and address.startswith(SCHEME)


def parse_kafka(address: str) -> tuple[str, dict[str, str]]:
    """Parse kafka://HOST:PORT/TOPIC?NAME=VALUE.

    Args:
        address: With any settings of librdkafka as options; `properties=FILE` reads them from a file.

    Returns:
        The topic, and the settings of the client.

    Raises:
        ConfigError: The address is something else. The message contains no option.
    """
    try:
        parts = urlsplit(address)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise ConfigError("decision_log must be kafka://HOST:PORT/TOPIC, with NAME=VALUE options after a ?") from None
    topic = parts.path.removeprefix("/")
    if not parts.netloc or "@" in parts.netloc or not _TOPIC.fullmatch(topic):
        rule = "must be kafka://HOST:PORT/TOPIC, with several HOST:PORT separated by commas"
        raise ConfigError(f"decision_log {rule}; a password belongs into the file of ?{PROPERTIES}=FILE")
    settings = {"bootstrap.servers": parts.netloc}
    if (file := options.pop(PROPERTIES, None)) is not None:
        settings |= _read_properties(Path(file))
    return topic, {**settings, **options}


def _read_properties(path: Path) -> dict[str, str]:
    settings = {}
    for number, line in enumerate(read_small_file(path).decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(("#", "!")):
            continue
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{path} must have NAME=VALUE in each line (got another form in line {number})")
        settings[name.strip()] = value.strip()
    return settings


class KafkaLog:
    """Sends entries to a topic. Has the methods of `tsa.serving.decisions.background_writer.DecisionLog`."""

    def __init__(
        self,
        address: str,
        *,
        sync: bool = False,
        logged: Count = lambda count: None,
        lost: Count = lambda count: None,
    ) -> None:
        """Args:
            address: `parse_kafka`.
            sync: Wait until the brokers have each entry before `record` returns.
            logged, lost: Called with a number of entries.

        Raises:
            ConfigError: The address or a setting is wrong, or the library is missing. Brokers may start later.
        """
        kafka = imported("a log of decisions in Kafka", "confluent_kafka", "kafka")
        self._topic, settings = parse_kafka(address)
        seconds = SYNC_SECONDS if sync else DELIVERY_SECONDS
        own = {"acks": "all", "enable.idempotence": "true", "message.timeout.ms": str(int(seconds * 1000))}
        try:
            self._producer = kafka.Producer({**own, **settings, "error_cb": self._report}, logger=_log)
        except kafka.KafkaException as error:
            raise ConfigError(f"decision_log: the Kafka client refuses its settings ({error.args[0].str()})") from None
        self._sync, self._logged, self._lost = sync, logged, lost
        self._problem = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="tsa-decisions", daemon=True)
        self._thread.start()

    def record(self, entries: Sequence[Entry]) -> None:
        """Send entries: with `sync`, wait until the brokers have them; else this never waits.

        Raises:
            OSError: With `sync`: the brokers did not confirm all in time.
        """
        if not entries:
            return
        if not self._sync:
            self.record_soon(entries)
            return
        waiting = _Confirmations(len(entries))
        for entry in entries:
            self._send(entry, waiting.one)
        if not waiting.wait(SYNC_SECONDS):
            raise OSError("the brokers did not confirm the decisions in time")

    def record_soon(self, entries: Sequence[Entry]) -> None:
        """Send entries soon, also with `sync`. Never waits; what the client cannot hold is lost, and counted."""
        for entry in entries:
            self._send(entry, lambda delivered: None)

    def close(self, within: float = 5.0) -> None:
        """Send what waits, within this many seconds. The rest is lost, and counted."""
        self._closed.set()
        self._thread.join(within)
        left = self._producer.flush(within)
        if left:
            self._lost(left)

    def _send(self, entry: Entry, confirm: Callable[[bool], None]) -> None:
        def delivered(error: Any, _: Any) -> None:
            self._count(error)
            confirm(error is None)

        key = entry.get("id")
        try:
            value = line_of(entry).rstrip(b"\n")
            self._producer.produce(self._topic, value, key=None if key is None else key.encode(), on_delivery=delivered)
        except Exception as error:  # the client's queue is full, or the message is too large
            self._count(error)
            confirm(False)

    def _count(self, error: Any) -> None:
        if error is None:
            self._logged(1)
            self._problem = ""
        else:
            self._lost(1)
            self._report(error)

    def _report(self, error: Any) -> None:
        """Log a problem, once for each kind. Its text names brokers, never an entry."""
        problem = error.str() if hasattr(error, "str") else type(error).__name__
        if problem != self._problem:
            _log.error("decisions cannot be sent to Kafka, payments are still scored: %s", problem)
        self._problem = problem

    def _poll(self) -> None:
        """Let the client call back."""
        while not self._closed.is_set():
            self._producer.poll(POLL_SECONDS)


class _Confirmations:
    """Waits until a number of entries are confirmed."""

    def __init__(self, count: int) -> None:
        self._left, self._failed = count, False
        self._changed = threading.Condition()

    def one(self, delivered: bool) -> None:
        """One entry is confirmed, or not."""
        with self._changed:
            self._left -= 1
            self._failed = self._failed or not delivered
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether all are confirmed within this time."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._left and not self._failed and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._left and not self._failed
