"""The life of a model on simulated payments, with a real endpoint that answers requests all the time.

    python examples/lifecycle/run.py                  the registry is a folder
    python examples/lifecycle/run.py --mlflow         the registry is a server of MLflow on loopback, started for this
    python examples/lifecycle/run.py --registry URL   any other new registry

A first model is trained, published, promoted and served. A month later its payments are appended, a new model is trained,
passes the gate and is promoted: the endpoint answers with it. A bad candidate is refused. A rollback brings the first model
back. The script ends with an error if a request failed, or a step had another result.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from tsa import Registry

MARKET = Path(__file__).with_name("market.toml")
SMALL = ("--set", "model.width=8", "--set", "model.n_ensemble=1", "--set", "training.epochs=1")
GOOD = (*SMALL, "--set", "model.parts=trees")
BAD = (*SMALL, "--set", "model.parts=network", "--set", "training.learning_rate=1e-9")
"""A network that has learned nothing."""
TIME, OUTCOME = "paid_at", "is_fraud"
PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 0.02


def tsa(*words: object, code: int = 0) -> str:
    """Run a command; its output. Any other exit code ends the script."""
    print("$ tsa", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "tsa", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != code:
        raise SystemExit(f"exit code must be {code} (got {done.returncode})\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Traffic:
    """Sends payments one after another, and notes which version answered."""

    def __init__(self, url: str, payments: list[dict[str, Any]]) -> None:
        self.url, self.payments = url, payments
        self.versions: list[str] = []
        self.failures: list[str] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.thread.join()

    def _run(self) -> None:
        for number, payment in enumerate(self._forever()):
            if self.stopped.wait(PAUSE_SECONDS):
                return
            body = json.dumps({**payment, "payment_id": f"{payment['payment_id']}-{number}"}).encode()
            request = urllib.request.Request(f"{self.url}/v1/score", body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    self.versions.append(json.load(answer)["version"])
            except (OSError, ValueError, KeyError) as error:
                said = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
                self.failures.append(f"{error} {said}")

    def _forever(self) -> Iterator[dict[str, Any]]:
        """The payments, and once they are used up the same ones again, each a second later than the one before."""
        yield from self.payments
        moment = datetime.fromisoformat(self.payments[-1][TIME])
        while True:
            for payment in self.payments:
                moment += timedelta(seconds=1)
                yield {**payment, TIME: moment.isoformat()}

    def wait_for(self, version: str) -> float:
        """Wait until this version answers; the seconds that it took."""
        began = time.monotonic()
        wait_until(lambda: self.versions[-1:] == [version[:12]], f"answers of version {version[:12]}")
        return time.monotonic() - began


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds, at most `PATIENCE_SECONDS`."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"waited {PATIENCE_SECONDS:g} s for {what}")
        time.sleep(0.1)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(module: str, words: list[object], log: Path, url: str) -> Iterator[None]:
    """Run a server until the block ends; it is ready once `url` answers."""
    command = [sys.executable, "-m", module, *map(str, words)]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            wait_until(lambda: answers(url) or server.poll() is not None, f"{module} at {url}")
            if server.poll() is not None:
                raise SystemExit(f"{module} ended:\n{log.read_text()}")
            yield
        finally:
            with suppress(ProcessLookupError):  # it has ended
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


@contextmanager
def endpoint(registry: str, folder: Path) -> Iterator[str]:
    """A server that follows the champion; its address."""
    port = free_port()
    options: list[object] = [
        "--bundle-from",
        f"{registry}@champion",
        "--bundle-cache",
        folder / "cache",
        "--port",
        port,
    ]
    options += ["--history", f"sqlite:///{folder / 'histories.db'}", "--new-store"]
    url = f"http://127.0.0.1:{port}"
    with running("tsa", ["serve", *options], folder / "serve.log", f"{url}/v2/health/ready"):
        yield url


@contextmanager
def mlflow_registry(folder: Path) -> Iterator[str]:
    """A server of MLflow with its database and files in the folder; the URL of a registry on it."""
    port = free_port()
    options: list[object] = ["--host", "127.0.0.1", "--port", port, "--workers", 1]
    options += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    options += ["--artifacts-destination", folder / "artifacts"]
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # it needs a library that nothing here uses
    with running("mlflow", ["server", *options], folder / "mlflow.log", f"http://127.0.0.1:{port}/health"):
        yield f"mlflow://127.0.0.1:{port}/fraud"


def answers(url: str) -> bool:
    """Whether a server answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def champion(registry: str) -> str:
    """The version that the champion names."""
    return Registry.open(registry).current("champion").sha256


def requests_of(log: pl.DataFrame) -> list[dict[str, Any]]:
    """Payments as a client sends them: without outcomes."""
    rows = log.drop(OUTCOME).to_dicts()
    return [{name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()} for row in rows]


def life(folder: Path, registry: str, payments: int) -> None:
    """Run all steps."""
    log = folder / "log.parquet"
    tsa("simulate", "--payments", payments, "--fraud-rate", 0.04, "--out", log, "--quiet")
    table = pl.read_parquet(log)
    times = table[TIME].cast(pl.Datetime("us", "UTC"))
    month = datetime(2025, 4, 1, tzinfo=UTC)
    first, second = folder / "until-march.parquet", folder / "april.parquet"
    table.filter(times < month).write_parquet(first)
    table.filter(times >= month).write_parquet(second)

    common = ["--market", MARKET, "--store", folder / "store", "--registry", registry, "--promote", "--quiet"]
    print(tsa("retrain", first, *common, *GOOD))
    one = champion(registry)
    with endpoint(registry, folder) as url, Traffic(url, requests_of(table.filter(times >= month))) as traffic:
        traffic.wait_for(one)
        print(f"the endpoint answers with version {one[:12]}\n")

        print(tsa("retrain", second, *common, *GOOD))
        two = champion(registry)
        assert two != one, "a new champion"
        print(f"the endpoint answers with version {two[:12]} after {traffic.wait_for(two):.1f} s\n")

        print(tsa("retrain", second, *common, *BAD, code=10))
        assert champion(registry) == two, "the bad candidate must not be the champion"

        Registry.open(registry).rollback(by="the example", why="to show it")
        print("rolled back", flush=True)
        assert champion(registry) == one, "the champion before"
        print(f"the endpoint answers with version {one[:12]} again after {traffic.wait_for(one):.1f} s\n")

        print(tsa("retrain", second, *common, *GOOD))
        assert champion(registry) == one, "a version that was rolled back must not be promoted again"
    changes = [version for at, version in enumerate(traffic.versions) if traffic.versions[at - 1 : at] != [version]]
    assert changes == [one[:12], two[:12], one[:12]], changes
    if traffic.failures:
        raise SystemExit(f"{len(traffic.failures)} requests failed; the first: {traffic.failures[0]}")
    print(f"{len(traffic.versions):,} requests, none failed; versions {' -> '.join(changes)}")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--registry", help="the URL of a new registry; default: a folder in --out")
    where.add_argument("--mlflow", action="store_true", help="start a server of MLflow and use that")
    parser.add_argument("--out", type=Path, help="an empty folder; default: a temporary one")
    parser.add_argument("--payments", type=int, default=4000)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="tsa-lifecycle-") as temporary:
        folder = given.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.mlflow:
            with mlflow_registry(folder) as registry:
                life(folder, registry, given.payments)
        else:
            life(folder, given.registry or str(folder / "registry"), given.payments)


if __name__ == "__main__":
    main()
