"""Latency, throughput, overload and memory of `tsa serve`, with the server and the client on one machine.

    python benchmarks/serve.py BUNDLE LOG [--load 200000] [--seconds 15] [--soak 600]
                               [--history sqlite:///FILE] [--serve-option=--max-queue=128]
                               [--floor] [--rounds 5]

BUNDLE is of a market of logs; LOG holds payments of that market. The first --load payments fill the history store
(`tsa history load`); the later ones are sent, each under a new id, at a time after all of them. The client is this process: an
asyncio client on raw sockets, a connection per simulated client. Prints, one after the other:

    one client, one payment after the other; then 32: payments a second, p50, p99, errors, processor time of the server
    twice the load that 32 clients reached, sent at fixed times: what was accepted, p99 of that, what got 429
    --soak seconds at half that load: memory of the server before and after, errors

Every round is bounded by --seconds.

With --floor, `benchmarks/floor.py` is started as well: the same HTTP server and model, on arrays made beforehand, without a
history store. Both are measured in turn, in --rounds rounds; printed are the ratios, each the median of the rounds with the
smallest and the largest. Further ratios follow: twice the capacity offered, Redis on loopback over SQLite where redis-server
is installed, and offline batches of 256 over the engine on ready tensors. On a machine that others use, the ratio of the
processor times is the one to look at.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from tsa.bundle.bundle import Bundle

CLIENTS = 32
TSA = Path(sys.executable).with_name("tsa")


@dataclass
class Tally:
    """What came of requests: the milliseconds of those that were answered, and how many had which status."""

    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    begun: float = field(default_factory=time.perf_counter)
    ended: float = 0.0

    def add(self, status: int, milliseconds: float) -> None:
        self.statuses[status] += 1
        if status == 200:
            self.milliseconds.append(milliseconds)
        self.ended = time.perf_counter()

    @property
    def rate(self) -> float:
        return len(self.milliseconds) / (self.ended - self.begun)

    def __str__(self) -> str:
        at = np.percentile(self.milliseconds, [50, 95, 99, 100]) if self.milliseconds else [float("nan")] * 4
        times = ", ".join(
            f"{name} {value:.2f} ms" for name, value in zip(("p50", "p95", "p99", "max"), at, strict=True)
        )
        return f"{self.rate:.0f} payments/s, {times}, statuses {dict(sorted(self.statuses.items()))}"


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.close()

    async def post(self, body: bytes) -> int:
        """The status of the answer."""
        head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._writer.write(head % len(body) + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        size = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await self._reader.readexactly(int(size.split(b":")[1]))
        return int(answer[9:12])


async def closed_loop(port: int, payments: Iterator[bytes], clients: int, seconds: float) -> Tally:
    """Every client sends its next payment when the last one was answered."""
    tally = Tally()
    end = time.perf_counter() + seconds

    async def one() -> None:
        async with Client(port) as client:
            while time.perf_counter() < end:
                body = next(payments)
                begun = time.perf_counter()
                status = await client.post(body)
                tally.add(status, 1000 * (time.perf_counter() - begun))

    await asyncio.gather(*(one() for _ in range(clients)))
    return tally


async def open_loop(port: int, payments: Iterator[bytes], rate: float, seconds: float, connections: int = 256) -> Tally:
    """Payments are sent at fixed times, whatever came of the ones before."""
    tally, idle, tasks = Tally(), asyncio.Queue[Client](), set[asyncio.Task[None]]()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(connections):
            idle.put_nowait(await stack.enter_async_context(Client(port)))

        async def one(body: bytes, due: float) -> None:
            client = await idle.get()
            status = await client.post(body)
            tally.add(status, 1000 * (time.perf_counter() - due))
            idle.put_nowait(client)

        begun = tally.begun = time.perf_counter()
        for at in range(int(rate * seconds)):
            due = begun + at / rate
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            task = asyncio.create_task(one(next(payments), due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    return tally


def requests(bundle: Bundle, rows: pl.DataFrame, after: datetime) -> Iterator[bytes]:
    """Payments of the log for ever, each under a new id, each a second after the one before."""
    market = bundle.market
    names = [name for name in market.raw_columns if name in rows.columns]
    table = rows.select(names).to_dicts()
    for count, row in enumerate(itertools.cycle(table)):
        moment = after + timedelta(seconds=count)
        row[market.event.id] = f"sent-{os.getpid()}-{count}"
        unit = market.event.time_unit
        row[market.event.time] = moment.isoformat() if unit is None else moment.timestamp()
        yield orjson.dumps(row)


def serving(bundle: Path, history: str, options: list[str]) -> contextlib.AbstractContextManager[tuple[int, int]]:
    """`tsa serve` in a process of its own: (port, process id)."""
    return started([TSA, "serve", bundle, "--history", history, "--new-store", *options])


@contextlib.contextmanager
def started(command: list[Any]) -> Iterator[tuple[int, int]]:
    """A server that takes --port, in a process of its own: (port, process id)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([str(part) for part in (*command, "--port", port)])
    try:
        _wait_for(port, process)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit("the server did not come up within a minute")


def resident(pid: int) -> float:
    """MiB that a process holds in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(port: int, pid: int, payments: Iterator[bytes], seconds: float, soak: float) -> None:
    say: Callable[..., None] = lambda *parts: print(*parts, flush=True)  # noqa: E731
    await closed_loop(port, itertools.islice(payments, 10**9), 1, min(seconds, 3))
    for clients in (1, CLIENTS):
        computed = cpu_seconds(pid)
        many = await closed_loop(port, payments, clients, seconds)
        each = 1000 * (cpu_seconds(pid) - computed) / max(1, many.statuses.total())
        say(f"{clients} clients:", many, f"{each:.2f} ms of the server's processor each")
    say(f"twice that, {2 * many.rate:.0f}/s offered:", await open_loop(port, payments, 2 * many.rate, seconds))
    if soak:
        await open_loop(port, payments, many.rate / 2, min(soak, 30))
        before = resident(pid)
        tally = await open_loop(port, payments, many.rate / 2, soak)
        after = resident(pid)
        say(f"half that for {soak:g} s:", tally)
        say(f"memory: {before:.1f} MiB, then {after:.1f} MiB: {100 * (after / before - 1):+.2f} %")


async def against_floor(
    tsa: tuple[int, int], floor: tuple[int, int], payments: Iterator[bytes], seconds: float, rounds: int
) -> None:
    """Measure two servers (port, process id) in turn and print the ratios."""
    ratios: dict[str, list[float]] = {}
    for port, _ in (tsa, floor):
        await closed_loop(port, payments, 1, min(seconds, 3))
    for _ in range(rounds):
        for clients in (1, CLIENTS):
            found = []
            for port, pid in (tsa, floor):
                computed = cpu_seconds(pid)
                tally = await closed_loop(port, payments, clients, seconds)
                each = (cpu_seconds(pid) - computed) / max(1, tally.statuses.total())
                p50, p99 = np.percentile(tally.milliseconds, [50, 99])
                found.append({"p50": p50, "p99": p99, "payments a second": tally.rate, "processor time each": each})
                print(
                    f"{clients} clients, {'TSA' if port == tsa[0] else 'floor'}:", tally, f"{1000 * each:.2f} ms each"
                )
            for name, value in found[0].items():
                ratios.setdefault(f"{clients} clients, {name}", []).append(float(value / found[1][name]))
    print(f"TSA over the floor, median of {rounds} rounds (smallest to largest):")
    for name, values in ratios.items():
        print(f"  {name}: {np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--load", type=int, default=200_000, help="payments that fill the history store beforehand")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--soak", type=float, default=0)
    parser.add_argument("--history", help="default: SQLite in a folder that is removed afterwards")
    parser.add_argument("--floor", action="store_true", help="compare with benchmarks/floor.py")
    parser.add_argument("--rounds", type=int, default=5, help="with --floor")
    parser.add_argument("--serve-option", action="append", default=[], help="--serve-option=--workers=2; repeatable")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    event = bundle.market.event
    frame = pl.read_parquet(arguments.log)
    with tempfile.TemporaryDirectory(prefix="tsa-serve-") as folder:
        history = arguments.history or f"sqlite:///{folder}/histories.db"
        last = load(arguments.bundle, frame.sort(event.time).head(arguments.load), event.time, history, Path(folder))
        payments = requests(bundle, frame.tail(50_000), last + timedelta(days=1))
        with serving(arguments.bundle, history, arguments.serve_option) as (port, pid):
            if not arguments.floor:
                asyncio.run(measure(port, pid, payments, arguments.seconds, arguments.soak))
                return
            script = Path(__file__).with_name("floor.py")
            with started([sys.executable, script, arguments.bundle, arguments.log]) as floor:
                asyncio.run(against_floor((port, pid), floor, payments, arguments.seconds, arguments.rounds))
            other_ratios(arguments, frame, port, payments, Path(folder))


def other_ratios(
    arguments: argparse.Namespace, frame: pl.DataFrame, port: int, payments: Iterator[bytes], folder: Path
) -> None:
    """Print what `benchmarks/serve_ratios.py` measures."""
    import serve_ratios

    event = Bundle.open(arguments.bundle).market.event
    seconds, rounds = arguments.seconds, arguments.rounds
    asyncio.run(serve_ratios.overload(port, payments, seconds, rounds))
    if shutil.which("redis-server") is not None:
        with serve_ratios.redis_store(folder) as history:
            load(arguments.bundle, frame.sort(event.time).head(arguments.load), event.time, history, folder)
            with serving(arguments.bundle, history, arguments.serve_option) as (redis_port, _):
                asyncio.run(serve_ratios.redis_over_sqlite(port, redis_port, payments, seconds, rounds))
    serve_ratios.offline_over_engine(arguments.bundle, arguments.log, rounds)


def load(bundle: Path, frame: pl.DataFrame, time_column: str, history: str, folder: Path) -> datetime:
    """Fill the history store; the time of the last payment in it."""
    if len(frame):
        frame.write_parquet(folder / "load.parquet")
        subprocess.run([TSA, "history", "load", bundle, folder / "load.parquet", "--history", history], check=True)
    last: Any = frame[time_column].max() if len(frame) else datetime(2025, 1, 1, tzinfo=UTC)
    found = last if isinstance(last, datetime) else datetime.fromisoformat(str(last))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
