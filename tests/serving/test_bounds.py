"""What a client sends decides its own answer and no more: bounds come before the reading, names of metrics are the program's."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.endpoint import CARRIED, WIRE, endpoint, made_bundle, payment, server
from tsa.serving.auth import SCORE, BearerTokens, read_tokens
from tsa.serving.http import protocol
from tsa.serving.parquet_body import NotParquetError, TooManyRowsError, TooMuchError
from tsa.serving.parquet_pages import PageError, walk
from tsa.serving.parquet_process import ParquetProcess
from tsa.serving.problems import RULES, ProblemError
from tsa.serving.settings import ServeSettings

TOKEN = "score-token-0123456789"
reader = ParquetProcess()
read_parquet = reader.read
BOUNDS: dict[str, int] = {"max_list": 1000, "max_columns": 1000, "max_bytes": 2**20}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("bounds") / "bundle")


@pytest.fixture(scope="module")
def port(bundle: Path) -> Iterator[int]:
    with server(bundle, max_bytes=100_000) as (_, found):
        yield found


@pytest.fixture
def client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as found:
        yield found


def answered(port: int, *parts: bytes) -> bytes:
    """All that a server says to these bytes, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:
            pass
        found = b""
        while data := connection.recv(65536):
            found += data
        return found


HEAD = b"POST /v1/score HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "many headers": (HEAD, *[b"".join(b"X%d: b\r\n" % at for at in range(1000))] * 20),
    "large headers": (HEAD, *[b"X: " + b"b" * 1000 + b"\r\n"] * 1000),
    "one header": (HEAD + b"X: ", *[b"b" * 10_000] * 100),
    "its name": (HEAD, *[b"b" * 10_000] * 100),
    "request line": (b"GET /", *[b"a" * 10_000] * 100),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", *[b"X: " + b"b" * 1000 + b"\r\n"] * 1000),
    "one trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nX: ", *[b"b" * 10_000] * 100),
    "chunk extensions": (CHUNKED + b"2;", *[b"b" * 10_000] * 100),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_head_is_bounded(port: int, kind: str) -> None:
    found = answered(port, *ENDLESS[kind])
    # where a request was answered before its trailers came to an end, that answer stands
    assert found.startswith((b"HTTP/1.1 431 Request Header Fields Too Large", b"HTTP/1.1 4"))
    assert b"connection: close" in found
    body = json.loads(found.split(b"\r\n\r\n")[-1])
    assert body["rule"] in ("head_too_large", "request", "missing_field")


def test_what_comes_after_is_dropped_and_not_kept(port: int) -> None:
    """The answer is there, however much was sent before it was read."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(HEAD + b"X: ")
        for _ in range(300):
            connection.sendall(b"b" * 65536)
        assert connection.recv(12) == b"HTTP/1.1 431"


def test_requests_of_usual_size_are_answered(client: httpx.Client) -> None:
    headers = {f"x-{at}": "b" * 100 for at in range(80)}
    assert client.get("/ping", headers=headers).status_code == 200
    assert client.get("/ping", headers={"cookie": "b" * 20_000}).status_code == 200
    for _ in range(30):  # each counts for itself on one connection
        assert client.get("/ping", headers={"cookie": "b" * 3000}).status_code == 200


def test_pipelined_requests_are_answered(port: int) -> None:
    one = b"GET /ping HTTP/1.1\r\nHost: x\r\nX: " + b"b" * 1000 + b"\r\n\r\n"
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    assert answered(port, one * 60 + last).count(b"HTTP/1.1 200") == 61


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_hears_413(port: int, announced: bool) -> None:
    """Not a connection that is reset while it is being sent: the client sends all of it, then reads."""
    size = 20_000_000
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body: Any = b"[" + b" " * size if announced else iter([b" " * 100_000] * (size // 100_000))
        connection.request(
            "POST", "/v1/score", body, {"content-type": "application/json"}, encode_chunked=not announced
        )
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["rule"]) == (413, "too_large")
        connection.close()


def test_a_connection_is_not_held_for_ever(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    with server(bundle, max_bytes=1000, history=f"sqlite:///{bundle.parent}/h3.db") as (_, port):
        began = time.monotonic()
        found = answered(port, HEAD + b"content-length: 1000000\r\n\r\n{")
        assert found.startswith(b"HTTP/1.1 413")
        assert time.monotonic() - began < 5


def drip(connection: socket.socket, text: bytes, seconds: float) -> bytes:
    """Send a byte at a time until the server answers or closes the connection; what it says."""
    connection.settimeout(0.02)
    end, found, at = time.monotonic() + seconds, b"", 0
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            if not (data := connection.recv(65536)):
                return found
            found += data
        with contextlib.suppress(OSError):
            connection.sendall(text[at % len(text) :][:1])
        at += 1
    raise AssertionError(f"the connection is still open: {found!r}")


GET = b"GET /ping HTTP/1.1\r\nHost: x\r\n"
SLOW = {
    "request line": (b"GET /", b"a", b"408"),
    "headers": (GET, b"X-A: b\r\n", b"408"),
    "empty lines": (b"", b"\r\n", b"408"),
    "second request": (GET + b"\r\n" + GET, b"X-A: b\r\n", b"200, 408"),
    "empty lines after a request": (GET + b"\r\n", b"\r\n", b"200, 408"),
    "body that nobody reads": (GET + b"content-length: 5000\r\n\r\n", b"a", b"200"),
    "body of an unknown path": (HEAD.replace(b"v1", b"x") + b"content-length: 5000\r\n\r\n", b"a", b"404"),
    "trailers": (GET + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n", b"200"),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_slow_request_is_cut_off(port: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.5)
    begun, slow, statuses = SLOW[kind]
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(begun)
        found = drip(connection, slow, 20)
    assert b", ".join(re.findall(rb"HTTP/1.1 (\d+)", found)) == statuses
    if statuses.endswith(b"408"):
        assert json.loads(found.split(b"\r\n\r\n")[-1])["rule"] == "slow_head"


def test_a_connection_without_a_request_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = protocol.Protocol.connection_made

    def soon(self: Any, transport: Any) -> None:
        self.timeout_keep_alive = 0.3
        made(self, transport)

    monkeypatch.setattr(protocol.Protocol, "connection_made", soon)
    assert answered(port) == b""
    assert answered(port, GET + b"\r\n").startswith(b"HTTP/1.1 200")


def test_a_slow_request_does_not_wait_for_the_answer_before_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is that of the client, not that of the server's work."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        body = json.dumps([payment(f"n{at}") for at in range(300)]).encode()
        connection.sendall(HEAD + b"content-type: application/json\r\n")
        connection.sendall(b"content-length: %d\r\n\r\n" % len(body) + body[:10])
        time.sleep(0.6)  # the limit of a body is another one
        connection.sendall(body[10:] + GET + b"connection: close\r\n\r\n")
        found = b""
        while data := connection.recv(65536):
            found += data
    assert found.count(b"HTTP/1.1 200") == 2


def test_what_came_before_a_broken_request_is_answered_whole(port: int) -> None:
    """Its refusal does not stand in the middle of another answer."""
    one = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    for broken in (b"G" * 100, CHUNKED + b"2\r\n{}zz", b"GET / HTTP/1.1\r\nX: " + b"b" * 200_000):
        found = answered(port, one * 20 + broken)
        heads = re.findall(rb"HTTP/1.1 (\d+).*?content-length: (\d+).*?\r\n\r\n", found, re.DOTALL | re.IGNORECASE)
        assert [status for status, _ in heads[:20]] == [b"200"] * 20
        for status, length in heads:
            head, _, found = found.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + status)
            assert json.loads(found[: int(length)])
            found = found[int(length) :]
        assert found == b""


@pytest.mark.parametrize("ending", [b"", b"connection: close\r\n"])
def test_a_client_that_does_not_read_is_disconnected(port: int, ending: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 0.5)
    one = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n"
    left = (one + b"\r\n") * 1000 + one + ending + b"\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.settimeout(0.1)
        for _ in range(300):
            try:
                left = left[connection.send(left or b"G") :]
            except TimeoutError:
                continue
            except ConnectionError:
                return
            if not left:
                time.sleep(1.5)
        raise AssertionError("it is still connected")


def test_an_upgrade_is_not_taken(port: int) -> None:
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    found = answered(port, GET + upgrade + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "path", ["/v1/score", "/v1/score/flat", "/v1/outcome", "/invocations", "/v2/models/shop/infer"]
)
@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "x-gzip"])
def test_an_encoded_body_is_refused(client: httpx.Client, path: str, encoding: str) -> None:
    body = gzip.compress(json.dumps(payment("a")).encode())
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    answer = client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["rule"]) == (415, "content_encoding")


def test_identity_is_no_encoding(client: httpx.Client) -> None:
    assert client.post("/v1/score", json=payment("a"), headers={"content-encoding": "identity"}).status_code == 200


def test_a_byte_order_mark_is_passed_over_everywhere(client: httpx.Client) -> None:
    mark, row = b"\xef\xbb\xbf", json.dumps(payment("bom")).encode()
    lines, table = {"content-type": "application/jsonlines"}, {"content-type": "text/csv"}
    assert client.post("/v1/score", content=mark + row).status_code == 200
    assert client.post("/v1/score", content=mark + row, headers=lines).json()["id"] == "bom"
    assert client.post("/invocations", content=mark + row, headers=lines).status_code == 200
    columns = payment("bom")
    csv = ",".join(columns) + "\n" + ",".join(map(str, columns.values())) + "\n"
    assert client.post("/invocations", content=mark + csv.encode(), headers=table).status_code == 200
    told = client.post("/v1/outcome", content=mark + b'{"id": "bom", "fraud": true}')
    assert told.status_code == 200
    assert client.post("/v2/models/shop/infer", content=mark + b"{}").json()["rule"] == "no_inputs"


def test_what_is_read_has_a_head(client: httpx.Client) -> None:
    addresses = "/ping /metrics /openapi.json /v1/form / /page/page.js /v2 /v2/health/live /v2/health/ready"
    for address in (*addresses.split(), "/v2/models/shop", "/v2/models/shop/ready"):
        got, head = client.get(address), client.head(address)
        assert (got.status_code, head.status_code, head.content) == (200, 200, b""), address
        if address != "/metrics":
            assert head.headers["content-length"] == got.headers["content-length"]
    assert client.head("/nowhere").status_code == 404
    assert client.head("/v1/score").status_code == 405


@pytest.mark.parametrize("said", ["True", "TRUE", "yes", "On", "1"])
def test_explain_in_any_spelling(client: httpx.Client, said: str) -> None:
    assert client.post(f"/v1/score?explain={said}", json=payment(f"e{said}")).json()["reasons"] is not None
    assert "reasons" not in client.post("/v1/score?explain=False", json=payment(f"n{said}")).json()
    assert client.post("/v1/score?explain=maybe", json=payment(f"m{said}")).status_code == 422


@pytest.mark.parametrize("spelling", ["x1", 71, 72.0, "73.0", True, 2.5, -0.0, 1e15])
def test_an_outcome_takes_every_spelling_of_an_id(client: httpx.Client, spelling: object) -> None:
    assert client.post("/v1/score", json=payment("x") | {"id": spelling}).status_code == 200
    told = client.post("/v1/outcome", json={"id": spelling, "fraud": True})
    assert (told.status_code, told.json()) == (200, {"id": spelling, "fraud": True})


@pytest.mark.parametrize("spelling", ["", None, [], {}, 1e300, 2.0**53, "a" * 5000])
def test_an_outcome_refuses_the_ids_that_a_payment_may_not_have(client: httpx.Client, spelling: object) -> None:
    scored = client.post("/v1/score", json=payment("x") | {"id": spelling})
    told = client.post("/v1/outcome", json={"id": spelling, "fraud": True})
    assert (scored.status_code, told.status_code) == (422, 422)
    assert (told.json()["rule"], told.json()["field"]) == (scored.json()["rule"], "id")


def test_texts_of_clients_name_no_rule_and_no_metric(tmp_path: Path) -> None:
    """The id of a row that carries its own history stands in messages for people, from which nothing is read."""
    odd = (
        "a: history_unavailable:history: must be there, but no",
        "a: conflicting_id:x: must be paid (got 1",
        "\n: x",
    )
    with endpoint(made_bundle(tmp_path / "bundle", WIRE), history=None) as client:
        for at in range(20):
            for id_ in odd:
                answer = client.post("/v1/score", json={**CARRIED, "id": f"{at}{id_}{at}", "amount": f"x{at}"})
                assert (answer.status_code, answer.json()["rule"]) == (422, "not_a_number")
                assert (answer.json()["field"], answer.json()["value"]) == ("amount", f"'x{at}'")
        client.post("/v1/score", json={**CARRIED, "at": "no"})
        rules = re.findall(r'tsa_refusals_total\{rule="(.*?)"\}', client.get("/metrics").text)
    assert rules == ["not_a_number"]


def test_all_rules_are_in_the_closed_set() -> None:
    """Those that the source names where it refuses something."""
    source = Path(__file__).parents[2] / "src" / "tsa"
    names = r"ProblemError|\bRefusedError|[Pp]roblem|RuleViolation|violation|RuleViolationError"
    refusing = rf'(?:{names})\(\s*(?:[A-Z_]+,|\d{{3}},)?\s*f?"([a-z_]+)",'
    files = [
        *(source / "serving").rglob("*.py"),
        *(source / "data" / f"{name}.py" for name in ("online/payments", "values")),
    ]
    found = {rule for path in files for rule in re.findall(refusing, path.read_text())}
    assert len(found) > 40
    assert found <= RULES


def test_a_rule_that_is_none_is_counted_as_another(bundle: Path) -> None:
    from tsa.bundle.bundle import Bundle
    from tsa.config.market import Market
    from tsa.serving.metrics import Metrics

    market: Market = Bundle.open(bundle).market
    metrics = Metrics(market)
    for rule in ("too_large", "card_4111", "x" * 1000):
        metrics.refused(rule)
    text = metrics.text()[0].decode()
    assert set(re.findall(r'tsa_refusals_total\{rule="(.*?)"\}', text)) == {"too_large", "other"}


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_token_files_of_usual_encodings_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    text = f"# ours{end or chr(10)}{TOKEN}{end}"
    plain = encoding.removesuffix("-bom")
    data = ("\ufeff" + text if plain != encoding else text).encode(plain)
    (tmp_path / "token").write_bytes(data)
    tokens = BearerTokens((line, SCORE) for line in read_tokens((), [tmp_path / "token"]))
    assert tokens.grant(TOKEN).roles == {SCORE}
    assert tokens.grant("# ours") is None


@pytest.mark.parametrize(
    "data",
    [
        TOKEN.encode("utf-16-le"),
        b"\xff\xff" + TOKEN.encode(),
        f"{TOKEN} and more".encode(),
        "gehe\u00ef\u006d-0123456789".encode(),
    ],
)
def test_other_token_files_are_refused_at_the_start(tmp_path: Path, data: bytes) -> None:
    from tsa.errors import ConfigError

    (tmp_path / "token").write_bytes(data)
    with pytest.raises(ConfigError, match=r"must be a text in UTF-8|must have only printable ASCII|must be its roles"):
        BearerTokens((line, SCORE) for line in read_tokens((), [tmp_path / "token"]))


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    pq.write_table(pa.table(columns), out := io.BytesIO(), **options)
    return out.getvalue()


def understated(body: bytes) -> bytes:
    """The same file, whose footer says that its last column unpacks to 60 bytes."""
    about = pq.read_metadata(io.BytesIO(body))
    group, length = about.row_group(0), int.from_bytes(body[-8:-4], "little")
    head, footer = body[: -8 - length], body[-8 - length : -8]
    for value in (group.column(about.num_columns - 1).total_uncompressed_size, group.total_byte_size):
        spelled = zigzag(value)
        footer = footer.replace(spelled, zigzag(60, len(spelled)))
    assert pq.read_metadata(io.BytesIO(head + footer + body[-8:])).row_group(0).total_byte_size == 60
    return head + footer + body[-8:]


def zigzag(value: int, size: int | None = None) -> bytes:
    value, out = value << 1, []
    while not out or value or len(out) < (size or 0):
        out.append(value & 127)
        value >>= 7
    return bytes([*(byte | 128 for byte in out[:-1]), out[-1]])


@pytest.mark.parametrize("codec", ["zstd", "gzip", "snappy", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_footer_that_lies_is_found_out(codec: str, version: str) -> None:
    columns = {"id": ["x"], "c": ["a" * 50_000_000]}
    options = {"compression": codec, "use_dictionary": False, "write_statistics": False, "store_schema": False}
    body = understated(parquet(columns, data_page_version=version, **options))
    with pytest.raises(TooMuchError):
        read_parquet(body, **BOUNDS)


def test_other_ways_to_say_too_little_are_found_out() -> None:
    twice = parquet({"c": ["a" * 1000] * 900}, compression="zstd", data_page_size=100, use_dictionary=False)
    assert len(read_parquet(twice, **BOUNDS)) == 900
    with pytest.raises(TooMuchError):
        read_parquet(twice, **{**BOUNDS, "max_bytes": 50_000})
    dictionary = parquet({"c": ["a" * 10_000_000] * 2, "id": ["a", "b"]}, compression="zstd")
    with pytest.raises(TooMuchError):
        read_parquet(dictionary, **BOUNDS)
    with pytest.raises(TooManyRowsError):
        read_parquet(parquet({"c": [1] * 2000}), **BOUNDS)
    with pytest.raises(TooMuchError, match="columns"):
        read_parquet(parquet({f"c{at}": [1] for at in range(1001)}), **BOUNDS)
    shared = parquet({"c": ["a" * 1000] * 5}, use_dictionary=False, column_encoding={"c": "DELTA_BYTE_ARRAY"})
    with pytest.raises(NotParquetError):
        read_parquet(shared, **BOUNDS)
    for damaged in (b"", b"PAR1", b"PAR1" * 100, twice[:-100], twice[:100] + twice[200:]):
        with pytest.raises(NotParquetError):
            read_parquet(damaged, **BOUNDS)


def test_any_changed_byte_of_a_parquet_file_is_read_or_refused() -> None:
    body = parquet({"id": ["a", "b"], "x": [1.5, None], "t": ["q" * 100, "r"]}, compression="zstd")
    step = 1 if os.environ.get("TSA_LONG") else 3
    for at in range(0, len(body), step):
        changed = body[:at] + bytes([body[at] ^ (1, 64, 255)[at // step % 3]]) + body[at + 1 :]
        with contextlib.suppress(NotParquetError, TooMuchError, TooManyRowsError):
            assert len(read_parquet(changed, **BOUNDS)) <= BOUNDS["max_list"]


WRITERS = {
    "arrow": lambda frame, out: pq.write_table(frame.to_arrow(), out),
    "arrow, pages of version 2": lambda frame, out: pq.write_table(frame.to_arrow(), out, data_page_version="2.0"),
    "arrow, checksums": lambda frame, out: pq.write_table(frame.to_arrow(), out, write_page_checksum=True),
    "arrow, index": lambda frame, out: pq.write_table(frame.to_arrow(), out, write_page_index=True),
    "arrow, two groups": lambda frame, out: pq.write_table(frame.to_arrow(), out, row_group_size=100),
    "polars": lambda frame, out: frame.write_parquet(out),
    "polars, small pages": lambda frame, out: frame.write_parquet(out, data_page_size=64, compression="gzip"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_files_of_usual_writers_are_read(writer: str) -> None:
    rows = [
        {"id": str(at), "x": at / 3, "k": at % 2 == 0, "n": None if at % 3 else at, "l": [at, at]} for at in range(300)
    ]
    WRITERS[writer](pl.DataFrame(rows), out := io.BytesIO())
    assert read_parquet(out.getvalue(), **BOUNDS) == rows


@pytest.mark.parametrize("header", [b"\x15", b"\x15\x00\x15\x06\x15\x06\x00\x19", b"\x55\x00", b"\x15\x00\x05\x02\x00"])
def test_a_page_header_that_can_be_read_in_two_ways_is_refused(header: bytes) -> None:
    with pytest.raises(PageError):
        walk(header, 0, max(1, len(header)), 10)


def test_before_a_token_nothing_is_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", TOKEN)
    monkeypatch.setattr(
        "tsa.serving.http.request_context.RequestContext.body", lambda self: pytest.fail("a body was read")
    )
    with endpoint(bundle, token_env=("SHOP_TOKEN",), history=f"sqlite:///{bundle.parent}/h4.db") as client:
        for path in ("/v1/score", "/v1/outcome", "/invocations", "/v2/models/shop/infer", "/nowhere"):
            answer = client.post(path, content=b"PAR1", headers={"content-type": "application/x-parquet"})
            assert answer.status_code == 401


def test_a_refusal_tells_its_status_by_its_rule(bundle: Path) -> None:
    from tsa.data.values import RuleViolation

    told = ProblemError.of(RuleViolation("not_a_number", "x", "must be there (rule history_unavailable)", "503"))
    assert told.status == 422
    assert ServeSettings(bundle=bundle).max_bytes == 4 * 2**20
