"""The faults of the chaos test, what is promised under each, and the table of docs/how-to/operations.md, which is made from them.

python -m support.chaos_cases          writes the table
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.chaos import Chaos, Cluster, Redis, SQLite, fill, until

DOCS = (
    next(folder for folder in Path(__file__).parents if (folder / "docs").is_dir())
    / "docs"
    / "how-to"
    / "operations.md"
)
BEGIN, END = "<!-- faults: made by tests/support/chaos_cases.py -->", "<!-- end of faults -->"

STORE_NAMES = {"sqlite": "SQLite", "redis": "Redis", "cluster": "Redis cluster"}

Texts = Mapping[str, tuple[str, ...]]
"""By store; "" for any."""


@dataclass(frozen=True, kw_only=True)
class ChaosCase:
    """A fault, what is promised, and where it is seen: patterns in the log, and values of /metrics that have risen."""

    name: str
    stores: tuple[str, ...]
    what: str
    promise: str
    fault: Callable[[Chaos], None]
    logged: Texts
    counted: Texts
    needs_disk: bool = False


CASES: list[ChaosCase] = []


def case(
    *stores: str, what: str, promise: str, logged: Texts, counted: Texts, needs_disk: bool = False
) -> Callable[[Callable[[Chaos], None]], Callable[[Chaos], None]]:
    """Make a case of a function that does the fault, and undoes it."""

    def made(fault: Callable[[Chaos], None]) -> Callable[[Chaos], None]:
        CASES.append(
            ChaosCase(
                name=fault.__name__,
                stores=stores or ("sqlite", "redis"),
                what=what,
                promise=promise,
                fault=fault,
                logged=logged,
                counted=counted,
                needs_disk=needs_disk,
            )
        )
        return fault

    return made


def failures(reason: str, rule: str = "history_unavailable") -> tuple[str, str]:
    return f'tsa_history_failures_total{{reason="{reason}"}}', f'tsa_refusals_total{{rule="{rule}"}}'


LOST = {"": failures("lost", "history_lost")}
OLDER = {"": failures("older", "history_lost")}
ENDED = {"": ("tsa_workers_ended_total",)}
GO_ON = (
    "payments are rejected with `history_lost` until `tsa history adopt`; then they are scored with what the store has"
)


@case(
    what="one worker is killed",
    promise="the other one keeps working; a new worker replaces it",
    logged={"": (r"worker \d+ ended with -9 \(SIGKILL\) and is replaced",)},
    counted=ENDED,
)
def worker_killed(chaos: Chaos) -> None:
    before = chaos.server.workers()
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(set(chaos.server.workers()) - set(before)) == 1, "another worker")


@case(
    what="all workers are killed at once",
    promise="connections are closed at once until new workers are ready; no confirmed payment is lost",
    logged={"": (r"(?s)(ended with -9.*){2}",)},
    counted=ENDED,
)
def workers_killed(chaos: Chaos) -> None:
    before = chaos.server.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(set(chaos.server.workers()) - set(before)) == 2, "other workers")


@case(
    what="the parent is killed, and the server is started again",
    promise="its workers finish the accepted requests and exit; no process is left",
    logged={"": ("the parent process is gone: this worker ends",)},
    counted={"": ("tsa_start_time_seconds",)},
)
def parent_killed(chaos: Chaos) -> None:
    chaos.server.parent.kill()
    chaos.server.parent.wait()
    until(lambda: not chaos.server.left(), "no process is left", 40)
    chaos.server.start(chaos.store.url)


@case(
    what="SIGTERM under load, and the server is started again",
    promise="accepted requests are answered, others are rejected with `stopping`; no process is left",
    logged={"": ("shutting down: new requests are refused",)},
    counted={"": ("tsa_start_time_seconds",)},
)
def stopped(chaos: Chaos) -> None:
    chaos.server.parent.send_signal(signal.SIGTERM)
    assert chaos.server.parent.wait(40) == 0
    until(lambda: not chaos.server.left(), "no process is left", 10)
    chaos.server.start(chaos.store.url)


@case(
    what="a bundle is copied file by file over the current one",
    promise="the old bundle stays in use until the copy is complete; then the new one is loaded",
    logged={"": ("the bundle was not reloaded", "bundle [0-9a-f]{12} loaded")},
    counted={"": ('tsa_reloads_total{outcome="refused"}', 'tsa_reloads_total{outcome="taken"}')},
)
def bundle_half_copied(chaos: Chaos) -> None:
    taken = chaos.server.metrics()['tsa_reloads_total{outcome="taken"}'] if _reloaded(chaos) else 0.0
    files = sorted(chaos.other_bundle.iterdir(), key=lambda path: path.name != "manifest.json")
    for path in files[:2]:
        shutil.copyfile(path, chaos.bundle / path.name)
    chaos.logged("the bundle was not reloaded", 30)
    chaos.steady()
    for path in files[2:]:
        shutil.copyfile(path, chaos.bundle / path.name)
    chaos.counted('tsa_reloads_total{outcome="taken"}', taken + 2, 30)


def _reloaded(chaos: Chaos) -> bool:
    return 'tsa_reloads_total{outcome="taken"}' in chaos.server.metrics()


@case(
    what="the store hangs for some seconds: Redis is paused, or another process holds the lock of the SQLite file",
    promise="payments are rejected with `history_unavailable`, after a few calls without waiting; recovers without help",
    logged={"": ("is not asked until it answers", "answers and is asked again")},
    counted={"sqlite": failures("locked"), "redis": failures("slow")},
)
def store_stalled(chaos: Chaos) -> None:
    with chaos.store.stalled():
        chaos.refused("history_unavailable")
        chaos.counted("tsa_history_circuit_open", 1)
    until(lambda: chaos.server.metrics().get("tsa_history_circuit_open") == 0, "the store is asked again")


@case(
    what="the disk of the store is full",
    promise="payments are rejected with `history_unavailable` until there is space; Redis (`appendfsync always`) exits: "
    "restart it",
    logged={"": (r"histories cannot be written \((disk_full|away)\)", "histories can be written again")},
    counted={"sqlite": failures("disk_full"), "redis": failures("away")},
    needs_disk=True,
)
def disk_full(chaos: Chaos) -> None:
    filler = fill(chaos.disk)
    try:
        until(lambda: _refused(chaos, filler), "nothing can be written")
    finally:
        filler.unlink()
    chaos.store.repaired()


def _refused(chaos: Chaos, filler: Path) -> bool:
    """Whether payments are refused; what room there is by then is filled as well."""
    before = chaos.count("history_unavailable")
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        file.write(bytes(4096))
    time.sleep(0.5)
    return chaos.count("history_unavailable") > before + 3


@case(
    "sqlite",
    what="the file is moved away and back",
    promise="payments are rejected with `history_lost` meanwhile; recovers without help",
    logged={"": (r"histories cannot be \w+ \(lost\).* its file was removed",)},
    counted=LOST,
)
def file_moved(chaos: Chaos) -> None:
    assert isinstance(chaos.store, SQLite)
    aside = chaos.store.path.with_name("aside.db")
    chaos.store.path.rename(aside)
    chaos.refused("history_lost")
    aside.rename(chaos.store.path)


@case(
    "sqlite",
    what="the file is removed",
    promise=GO_ON,
    logged={"": (r"histories cannot be \w+ \(lost\)",)},
    counted=LOST,
)
def file_removed(chaos: Chaos) -> None:
    assert isinstance(chaos.store, SQLite)
    chaos.store.path.unlink()
    chaos.refused("history_lost")
    chaos.adopt()


@case(
    "sqlite",
    what="an earlier copy replaces the file and its log",
    promise=GO_ON,
    logged={"": (r"histories cannot be \w+ \(older\)",)},
    counted=OLDER,
)
def file_replaced(chaos: Chaos) -> None:
    _replace_file(chaos, chaos.store.files[1:] if isinstance(chaos.store, SQLite) else [])


@case(
    "sqlite",
    what="an earlier copy replaces the file; its log stays",
    promise=GO_ON,
    logged={"": (r"histories cannot be \w+ \((older|replaced|lost)\)",)},
    counted={"": ('tsa_refusals_total{rule="history_lost"}',)},
)
def file_replaced_beside_its_log(chaos: Chaos) -> None:
    _replace_file(chaos, [])


def _replace_file(chaos: Chaos, also_gone: list[Path]) -> None:
    assert isinstance(chaos.store, SQLite)
    copy = chaos.disk / "copy.db"
    chaos.store.copy(copy)
    chaos.steady(20)
    for path in also_gone:
        path.unlink(missing_ok=True)
    copy.replace(chaos.store.path)
    chaos.refused("history_lost")
    chaos.adopt()


@case(
    "redis",
    what="Redis is killed and restarted with its data (`appendfsync always`)",
    promise="payments are rejected with `history_unavailable` meanwhile; recovers without help",
    logged={"": (r"histories cannot be \w+ \((away|loading)\)", r"histories can be \w+ again")},
    counted={"": failures("away")},
)
def redis_killed(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Redis)
    chaos.store.first.kill()
    chaos.refused("history_unavailable")
    chaos.store.first.start()


@case(
    "redis",
    what="Redis is restarted without its data",
    promise=GO_ON,
    logged={"": (r"histories cannot be \w+ \(lost\)",)},
    counted=LOST,
)
def redis_restarted_empty(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Redis)
    chaos.store.first.kill()
    for path in chaos.store.first.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    chaos.store.first.start()
    chaos.refused("history_lost")
    chaos.adopt()


@case(
    "redis",
    what="FLUSHALL",
    promise=GO_ON,
    logged={"": (r"histories cannot be \w+ \(lost\)",)},
    counted=LOST,
)
def redis_flushed(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Redis)
    chaos.store.first.flush()
    chaos.refused("history_lost")
    chaos.adopt()


@case(
    "redis",
    what="failover to a replica that has everything; the first one becomes a replica (READONLY)",
    promise="continues over a new connection to the same address",
    logged={"": (r"is a replica now \(READONLY\)",)},
    counted={"": ('tsa_history_failures_total{reason="read_only"}',)},
)
def failover(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Redis)
    chaos.store.follow()
    first, second = chaos.store.first.client(), chaos.store.second.client()
    first.execute_command("CLIENT", "PAUSE", 1000, "WRITE")  # as a failover that loses nothing does
    until(
        lambda: first.info("replication")["master_repl_offset"] == second.info("replication")["master_repl_offset"],
        "the replica has everything",
    )
    second.replicaof("NO", "ONE")
    chaos.store.swap()
    first.replicaof("127.0.0.1", str(chaos.store.first.port))
    first.execute_command("CLIENT", "UNPAUSE")


@case(
    "redis",
    what="failover to a replica that lacks the last changes",
    promise=GO_ON,
    logged={"": (r"histories cannot be \w+ \(older\)",)},
    counted=OLDER,
)
def failover_with_loss(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Redis)
    chaos.store.follow()
    chaos.steady(3)
    chaos.store.second.client().replicaof("NO", "ONE")
    chaos.steady(10)
    chaos.store.first.kill()
    chaos.store.swap()
    chaos.refused("history_lost")
    chaos.adopt()
    chaos.store.second.start()


@case(
    "redis",
    what="failover to an empty server, and back",
    promise="payments are rejected with `history_lost` meanwhile; recovers without help",
    logged={"": (r"histories cannot be \w+ \(lost\)",)},
    counted=LOST,
)
def failover_to_an_empty_server(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Redis)
    chaos.store.second.client().replicaof("NO", "ONE")
    chaos.store.second.flush()
    chaos.store.first.kill()
    chaos.store.swap()
    chaos.refused("history_lost")
    chaos.store.second.start()
    chaos.store.first.kill()
    chaos.store.swap()
    chaos.steady()
    chaos.store.second.start()


@case(
    "redis",
    what="the memory of Redis is full (`noeviction`)",
    promise="payments are rejected with `history_unavailable` until there is space; recovers without help",
    logged={"": (r"histories cannot be written \(memory\)", "histories can be written again")},
    counted={"": failures("memory")},
)
def redis_out_of_memory(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Redis)
    client = chaos.store.first.client()
    client.config_set("maxmemory", 1)
    chaos.refused("history_unavailable")
    client.config_set("maxmemory", 0)


@case(
    "redis",
    what="Redis evicts histories: its `maxmemory-policy` was changed, and its memory is full",
    promise="payments are rejected with `history_unavailable` while it may evict. Then those whose histories it has evicted "
    "are rejected with `history_lost` until `tsa history adopt`",
    logged={"": (r"histories cannot be \w+ \(evicting\)", r"histories cannot be \w+ \((evicted|lost)\)")},
    counted={"": (failures("evicting")[0], 'tsa_refusals_total{rule="history_lost"}')},
)
def redis_evicts(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Redis)
    client = chaos.store.first.client()
    client.config_set("maxmemory-policy", "allkeys-random")
    chaos.refused("history_unavailable")
    keys = client.dbsize()
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 100_000)
    until(lambda: client.dbsize() < keys, "keys are evicted")
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")
    chaos.refused("history_lost")
    chaos.store.first.flush()  # the histories that are left are not those of a log
    chaos.adopt()


@case(
    "cluster",
    what="the slot of the store moves to another node of the cluster",
    promise="payments are rejected with `history_unavailable` while its keys move; recovers without help",
    logged={"": (r"histories cannot be \w+ \((cluster|other)\)", r"histories can be \w+ again")},
    counted={"": ('tsa_refusals_total{rule="history_unavailable"}',)},
)
def slot_moved(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Cluster)
    with chaos.store.moving():
        chaos.refused("history_unavailable")


@case(
    "cluster",
    what="the node with the store is killed and restarted with its data (`appendfsync always`)",
    promise="payments are rejected with `history_unavailable` meanwhile; recovers without help",
    logged={"": (r"histories cannot be \w+ \((away|cluster|loading)\)", r"histories can be \w+ again")},
    counted={"": ('tsa_refusals_total{rule="history_unavailable"}',)},
)
def node_killed(chaos: Chaos) -> None:
    assert isinstance(chaos.store, Cluster)
    chaos.store.holder.kill()
    chaos.refused("history_unavailable")
    chaos.store.holder.start()
    chaos.store.is_up()


@case(
    what='the store hangs, with `on_history_unavailable = "degraded"`',
    promise="payments are scored without their histories, marked `degraded` and not stored, after a few calls without "
    "waiting; sent again once the store is back, they get their scores",
    logged={"": ("is not asked until it answers", "answers and is asked again")},
    counted={"": ('tsa_payments_total{outcome="degraded"}',)},
)
def degraded(chaos: Chaos) -> None:
    chaos.restart("--set", "serving.on_history_unavailable=degraded")
    chaos.steady()
    with contextlib.ExitStack() as pause:
        with chaos.store.stalled():
            chaos.expect_degraded()
            chaos.refused("degraded", 12)
            chaos.counted("tsa_history_circuit_open", 1)
            pause.enter_context(chaos.paused())
        until(lambda: chaos.server.metrics().get("tsa_history_circuit_open") == 0, "the store is asked again")
        chaos.catch_up()


def table() -> str:
    """The table of the docs."""
    lines = ["| Fault | Store | What happens | Where to see it |", "|---|---|---|---|"]
    for one in CASES:
        stores = (
            "any"
            if len(one.stores) == 2
            else {"sqlite": "SQLite", "redis": "Redis", "cluster": "Redis cluster"}[one.stores[0]]
        )
        metrics = dict.fromkeys(f"`{name}`" for names in one.counted.values() for name in names)
        lines.append(f"| {one.what} | {stores} | {one.promise} | {', '.join(['log', *metrics])} |")
    return "\n".join(lines) + "\n"


def split(text: str) -> tuple[str, str, str]:
    """The document before, in and after the table."""
    before, _, rest = text.partition(f"{BEGIN}\n")
    inside, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n", inside, f"{END}{after}"


if __name__ == "__main__":
    before, _, after = split(DOCS.read_text())
    DOCS.write_text(before + table() + after)
