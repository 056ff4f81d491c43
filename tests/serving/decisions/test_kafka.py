"""A log of decisions as a Kafka topic, against the mock cluster of librdkafka: the protocol over real sockets, no broker."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from support.endpoint import made_bundle, payment, server
from tsa.errors import ConfigError
from tsa.serving.decisions.entries import DECISIONS, OUTCOMES, REASONS
from tsa.serving.decisions.kafka import KafkaLog, parse_kafka
from tsa.serving.settings import ServeSettings

confluent_kafka = pytest.importorskip("confluent_kafka")
MOCK = "kafka://mock:9092/decisions?test.mock.num.brokers=2"


def messages(log: Any, count: int) -> list[tuple[bytes | None, dict[str, Any]]]:
    """The first messages of a topic of the log's mock cluster."""
    brokers = log._producer.list_topics(timeout=10).brokers.values()
    settings = {"bootstrap.servers": ",".join(f"{one.host}:{one.port}" for one in brokers)}
    reader = confluent_kafka.Consumer({**settings, "group.id": "test", "enable.auto.commit": "false"})
    # assigned by hand: joining a group takes seconds
    partitions = log._producer.list_topics("decisions", timeout=10).topics["decisions"].partitions
    reader.assign([confluent_kafka.TopicPartition("decisions", number, 0) for number in partitions])
    read: list[tuple[bytes | None, dict[str, Any]]] = []
    end = time.monotonic() + 20
    while len(read) < count:
        assert time.monotonic() < end, read
        message = reader.poll(0.2)
        if message is not None and message.error() is None:
            read.append((message.key(), orjson.loads(message.value())))
    reader.close()
    return read


def counted() -> tuple[Counter[str], dict[str, Callable[[int], None]]]:
    counts: Counter[str] = Counter()

    def add(name: str) -> Callable[[int], None]:
        return lambda count: counts.update({name: count})

    return counts, {"logged": add("logged"), "lost": add("lost")}


def test_answers_outcomes_and_reasons_become_messages(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle")
    with server(bundle, decision_log=MOCK, decision_log_sync=True) as (served, port):
        url = f"http://127.0.0.1:{port}"
        answer = httpx.post(f"{url}/v1/score?explain=true", json=payment("Zoë"), timeout=30).json()
        assert httpx.post(f"{url}/v1/outcome", json={"id": "Zoë", "fraud": True}).status_code == 200
        assert served.service is not None
        assert served.service.recorder is not None
        read = messages(served.service.recorder._log, 3)
        assert "tsa_decisions_logged_total 3.0" in httpx.get(f"{url}/metrics").text
    assert {key for key, _ in read} == {"Zoë".encode()}
    by_table = {entry["table"]: entry for _, entry in read}
    assert set(by_table) == {DECISIONS, OUTCOMES, REASONS}
    assert by_table[DECISIONS]["raw_score"] == answer["raw_score"]
    assert orjson.loads(by_table[DECISIONS]["values"])["amount"] == 12.5
    assert by_table[OUTCOMES]["fraud"] is True


def test_without_brokers_nothing_is_answered_with_sync_and_nothing_waits_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tsa.serving.decisions.kafka.SYNC_SECONDS", 1.2)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"kafka://127.0.0.1:{closed.getsockname()[1]}/decisions"
    counts, calls = counted()
    log = KafkaLog(address, sync=True, **calls)
    with pytest.raises(OSError, match="did not confirm"):
        log.record([{"id": "a"}])
    log.close(1.5)
    assert counts == {"lost": 1}
    counts, calls = counted()
    log = KafkaLog(f"{address}?queue.buffering.max.messages=10", **calls)
    begun = time.monotonic()
    log.record([{"id": str(at)} for at in range(25)])
    assert time.monotonic() - begun < 0.5
    assert counts == {"lost": 15}
    log.close(0.1)
    assert counts == {"lost": 25}


def test_addresses(tmp_path: Path) -> None:
    (tmp_path / "client").write_text("# ours\nsasl.username=tsa\nsasl.password = a=b \n")
    topic, settings = parse_kafka(f"kafka://a:1,b:2/t.x-1?properties={tmp_path}/client&linger.ms=5")
    assert topic == "t.x-1"
    own = {"bootstrap.servers": "a:1,b:2", "sasl.username": "tsa", "sasl.password": "a=b", "linger.ms": "5"}
    assert settings == own
    (tmp_path / "client").write_text("password")
    for address, text in (
        ("kafka://a:1", "must be kafka://HOST:PORT/TOPIC"),
        ("kafka:///topic", "must be kafka://HOST:PORT/TOPIC"),
        ("kafka://me:secret@a:1/t", "a password belongs into the file"),
        ("kafka://a:1/t/u", "must be kafka://HOST:PORT/TOPIC"),
        ("kafka://a:1/t?x", "NAME=VALUE options"),
        (f"kafka://a:1/t?properties={tmp_path}/client", "got another form in line 1"),
    ):
        with pytest.raises(ConfigError, match=text) as refused:
            parse_kafka(address)
        assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="refuses its settings"):
        KafkaLog("kafka://a:1/t?no.such.setting=1")
    with pytest.raises(ConfigError, match="got a Kafka topic"):
        ServeSettings.make({"bundle": "b", "queue": True, "decision_log": MOCK})
