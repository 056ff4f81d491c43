"""Mutated requests against a real server on loopback: never a 500, never an end, never a connection that hangs.

    python benchmarks/fuzz.py BUNDLE [--requests 100000] [--seed 0] [--connections 8] [--serve-option=--max-list=100]

BUNDLE is of a market of logs. Each request begins as a sound one (JSON, JSON lines, CSV, Parquet, tensors, an outcome, the
analysts' queue; every route) and is then damaged: bytes flipped, cut, repeated or put in, values exchanged for odd ones,
fields left out or made deep, headers, methods and paths changed, lengths that lie, requests that break off. Prints how many
got which status, and fails where one got 500, an answer was no HTTP, a refusal no problem+json, or the server is not well at
the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import polars as pl

from serve import resident, serving
from tsa.bundle.bundle import Bundle
from tsa.serving.http.openapi_schemas import Specification, tensors_of

TOKEN = "fuzz-token-0123456789"
SECONDS_EACH = 30
"""An answer that takes longer counts as a hang."""
ODD: list[Any] = [
    None, True, False, 0, -1, 2**31, 2**63, 2**64, 10**30, -(10**400), 1e308, -0.0, 5e-324, "", " ", "0", "-1", "nan",
    "inf", "1e999", "null", "\0", "\ud7ff", "\U0010ffff", "é" * 300, "x" * 5000, "2025-04-20", "9999-12-31T23:59:60Z",
    "0000-00-00", "1e5", "0x10", "١٢٣", "'; drop table payments; --", "<script>", "../../etc/passwd", [], {}, [[]],
    {"a": {"b": {}}}, [None] * 50,
]  # fmt: skip
HEADERS = [
    ("content-type", ["application/json", "text/csv", "application/jsonlines", "application/x-parquet", "text/html",
                      "application/json; charset=utf-16", "", ";", "application/json" * 50, "multipart/form-data"]),
    ("accept", ["*/*", "text/csv", "application/json;q=0", "image/*", "q=1", ",,,", "text/*;q=x"]),
    ("x-deadline-ms", ["1", "0", "-1", "1e3", "99999999999999", "soon", ""]),
    ("authorization", ["Bearer", "Bearer x", "Basic eDp5", "bearer " + "y" * 3000, "\xff"]),
    ("x-request-id", ["ok-1", "no spaces", "x" * 500, "\xff"]),
    ("transfer-encoding", ["chunked", "gzip", "identity"]),
    ("content-encoding", ["gzip"]),
    ("expect", ["100-continue"]),
    ("connection", ["close", "upgrade"]),
    ("inference-header-content-length", ["12"]),
]  # fmt: skip


class Requests:
    """Sound requests of a market, and the ways to damage them. The same seed gives the same requests."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self.random, self.market = random.Random(seed), bundle.market
        self.example = Specification(bundle.market, bundle.encoder).example()
        self._count = 0

    def payment(self) -> dict[str, Any]:
        self._count += 1
        row = dict(self.example)
        row[self.market.event.id] = f"fuzz-{self._count}" if self.random.random() < 0.9 else f"fuzz-{self._count % 50}"
        for history in self.market.history:
            row[str(history.key)] = f"key-{self.random.randrange(50)}"
        return row

    def odd(self) -> Any:
        return self.random.choice(ODD)

    def damaged_row(self) -> Any:
        row: Any = self.payment()
        for _ in range(self.random.choice([0, 1, 1, 2, 5])):
            name = self.random.choice([*row, "other"])
            if self.random.random() < 0.25:
                row.pop(name, None)
            else:
                row[name] = self.odd()
        kind = self.random.random()
        if kind < 0.1:
            events = [self.payment() if self.random.random() < 0.8 else self.odd() for _ in range(3)]
            names = [history.name for history in self.market.history]
            return {"payment": row, "histories": {self.random.choice([*names, "other"]): events}}
        return self.odd() if kind < 0.15 else row

    def body(self) -> tuple[str, str, bytes]:
        """(path, content type, body)."""
        kinds: list[Callable[[], tuple[str, str, bytes]]] = [self._json, self._list, self._lines, self._csv]
        return self.random.choice([*kinds, self._parquet, self._tensors, self._outcome, self._queue])()

    def _json(self) -> tuple[str, str, bytes]:
        path = self.random.choice(["/v1/score", "/v1/score", "/invocations", "/v1/score?explain=maybe"])
        return path, "application/json", dumped(self.damaged_row())

    def _list(self) -> tuple[str, str, bytes]:
        rows = [self.damaged_row() for _ in range(self.random.randrange(5))]
        whole = {"instances": rows} if self.random.random() < 0.3 else rows
        return self.random.choice(["/v1/score", "/invocations"]), "application/json", dumped(whole)

    def _lines(self) -> tuple[str, str, bytes]:
        rows = [dumped(self.damaged_row()) for _ in range(self.random.randrange(1, 4))]
        return self.random.choice(["/v1/score", "/invocations"]), "application/jsonlines", b"\n".join(rows)

    def _csv(self) -> tuple[str, str, bytes]:
        rows = [self.payment() for _ in range(2)]
        cells = [[str(row[name]) if self.random.random() < 0.9 else str(self.odd()) for name in row] for row in rows]
        lines = [",".join(rows[0]), *(",".join(line) for line in cells)]
        return "/invocations", "text/csv", "\n".join(lines).encode("utf-8", "replace")

    def _parquet(self) -> tuple[str, str, bytes]:
        buffer = io.BytesIO()
        pl.DataFrame([self.payment() for _ in range(2)]).write_parquet(buffer)
        return "/invocations", "application/x-parquet", buffer.getvalue()

    def _tensors(self) -> tuple[str, str, bytes]:
        rows = [self.payment() for _ in range(2)]
        inputs = [{**t, "shape": [2], "data": [row[t["name"]] for row in rows]} for t in tensors_of(self.market)]
        for _ in range(self.random.randrange(3)):
            self.random.choice(inputs)[self.random.choice(["name", "datatype", "shape", "data"])] = self.odd()
        return f"/v2/models/{self.market.name}/infer", "application/json", dumped({"inputs": inputs})

    def _outcome(self) -> tuple[str, str, bytes]:
        body = {"id": f"fuzz-{self.random.randrange(1 + self._count)}", "fraud": self.random.random() < 0.5}
        if self.random.random() < 0.5:
            body[self.random.choice(["id", "fraud", "at", "other"])] = self.odd()
        return "/v1/outcome", "application/json", dumped(body)

    def _queue(self) -> tuple[str, str, bytes]:
        """A request of the analysts' queue: a list with a query, or a body that is sound or damaged."""
        fields = {"state": "open", "decision": "review", "min_loss": 0.5, "text": "fuzz"}
        damaged = {name: value if self.random.random() < 0.7 else self.odd() for name, value in fields.items()}
        chosen = dict(self.random.sample(sorted(damaged.items(), key=lambda item: item[0]), self.random.randrange(4)))
        if self.random.random() < 0.3:
            query = urlencode({name: str(value).encode("utf-8", "replace") for name, value in chosen.items()})
            return f"/v1/queue{self.random.choice(['', '/cases.csv'])}?{query}", "application/json", b""
        id_ = f"fuzz-{self.random.randrange(1 + self._count)}" if self.random.random() < 0.8 else self.odd()
        body = {
            "claim": {**chosen, **({"id": id_} if self.random.random() < 0.5 else {})},
            "decide": {"id": id_, "answer": self.random.choice(["fraud", "genuine", "later", self.odd()])},
            "hand-on": {"id": id_},
        }
        name = self.random.choice(list(body))
        return f"/v1/queue/{name}", "application/json", dumped(body[name] if self.random.random() < 0.9 else self.odd())

    def raw(self) -> tuple[bytes, bool]:
        """A whole request as it goes over the wire, and whether nothing more is sent after it, ever."""
        path, kind, body = self.body()
        if self.random.random() < 0.3:
            body = self.damaged_bytes(body)
        headers = {"host": "x", "content-type": kind, "content-length": str(len(body))}
        headers["authorization"] = f"Bearer {TOKEN}"
        method = "GET" if path.startswith(("/v1/queue?", "/v1/queue/cases.csv")) else "POST"
        if self.random.random() < 0.2:
            name, values = self.random.choice(HEADERS)
            headers[name] = self.random.choice(values)
        if self.random.random() < 0.03:
            method = self.random.choice(["GET", "PUT", "HEAD", "OPTIONS", "BREW", "post"])
        if self.random.random() < 0.03:
            path = self.random.choice(
                [
                    "/",
                    "/metrics",
                    "/v2",
                    "/%00",
                    "//",
                    "/v1/score/",
                    "/page/..%2f",
                    "/v1/admin/reload",
                    "/" + "a" * 5000,
                ]
            )
        if self.random.random() < 0.01:
            headers["content-length"] = self.random.choice(["0", "-1", "x", str(len(body) + 5), "99999999999999999999"])
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        whole = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body
        torn = self.random.random() < 0.02
        lies = headers["content-length"] != str(len(body)) or "transfer-encoding" in headers
        return (self.damaged_bytes(whole), True) if torn else (whole, lies)

    def damaged_bytes(self, data: bytes) -> bytes:
        found, pick = bytearray(data), self.random
        for _ in range(pick.randrange(1, 6)):
            at = pick.randrange(len(found) + 1)
            match pick.randrange(5):
                case 0 if found:
                    found[at % len(found)] = pick.randrange(256)
                case 1:
                    found[at:at] = pick.randbytes(pick.randrange(1, 8))
                case 2:
                    del found[at : at + pick.randrange(1, 20)]
                case 3:
                    found[at:at] = found[at : at + 30] * pick.randrange(1, 5)
                case _:
                    found[at:at] = pick.choice(
                        [b"[" * 500, b'{"a":' * 300, b"\0", b"9" * 400, b"\xff\xfe", b'"\\ud800"']
                    )
        return bytes(found)


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


async def answer_to(port: int, request: bytes, cut: bool) -> tuple[int, bytes, bytes]:
    """(status, head, body); status 0 where the server closed without a word, as it may after a request that broke off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if cut:
            writer.write_eof()
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        head_only = request.startswith(b"HEAD ") or not length
        body = b"" if head_only else await reader.readexactly(int(length[0].split(b":")[1]))
        return int(head.split(b" ", 2)[1]), head, body
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b"", b""
    finally:
        writer.close()


async def fuzz(
    port: int, requests: Requests, count: int, connections: int, until: float
) -> tuple[Counter[int], list[str]]:
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    left = iter(range(count))

    async def one() -> None:
        for _ in left:
            if time.monotonic() > until:
                return
            request, cut = requests.raw()
            try:
                async with asyncio.timeout(SECONDS_EACH):
                    status, head, body = await answer_to(port, request, cut)
            except (TimeoutError, ValueError, IndexError) as error:
                wrong.append(f"{error!r} for {request[:300]!r}")
                continue
            statuses[status] += 1
            told = b"application/problem+json" in head.lower() or (status == 400 and b"Invalid HTTP request" in body)
            if status == 500 or (status >= 400 and not told and not request.startswith(b"HEAD ")):
                wrong.append(f"{status} {body[:200]!r} for {request[:400]!r}")

    await asyncio.gather(*(one() for _ in range(connections)))
    return statuses, wrong


def served_with(folder: str, arguments: argparse.Namespace) -> list[str]:
    """The options of the server: a token with every role, a log of decisions, and a queue of all payments."""
    tokens = Path(folder, "tokens")
    tokens.write_text(f"{TOKEN} score,analyst,admin fuzz\n")
    options = [f"--token-file={tokens}", f"--decision-log={folder}/log", "--queue", "--queue-over=raw_score=0"]
    return [*options, *arguments.serve_option]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=30, help="an end, whatever was reached")
    parser.add_argument("--serve-option", action="append", default=[])
    arguments = parser.parse_args()
    requests = Requests(Bundle.open(arguments.bundle), arguments.seed)
    with (
        tempfile.TemporaryDirectory(prefix="tsa-fuzz-") as folder,
        serving(arguments.bundle, f"sqlite:///{folder}/histories.db", served_with(folder, arguments)) as (port, pid),
    ):
        begun, until = time.monotonic(), time.monotonic() + 60 * arguments.minutes
        statuses, wrong = asyncio.run(fuzz(port, requests, arguments.requests, arguments.connections, until))
        seconds = time.monotonic() - begun
        with contextlib.suppress(OSError):
            well = urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10).status == 200
        print(
            f"{sum(statuses.values()):,} requests in {seconds:.0f} s, seed {arguments.seed}: {dict(sorted(statuses.items()))}"
        )
        print(f"memory of the server at the end: {resident(pid):.0f} MiB; answers /ping: {well}")
    for line in wrong[:20]:
        print("WRONG:", line)
    if wrong or not well:
        sys.exit(1)


if __name__ == "__main__":
    main()
