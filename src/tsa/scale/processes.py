"""One command in several processes of a Ray cluster that form a group of torch.distributed: what torchrun does on given machines.

An actor on each reserved processor starts a process with the variables that torchrun sets, and ends it. If a process is killed
or its node is lost, the others are ended, and all may be started again. The first actor holds the key-value store by which the
processes find each other.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsa.errors import ClusterError
from tsa.scale.cluster import RETRIES

logger = logging.getLogger(__name__)

PROGRAM: Sequence[str] = ("-m", "tsa")
"""What Python runs."""
RESERVE_SECONDS = 600.0
"""How long to wait until the cluster has enough free processors; it may have to start nodes."""
GRACE_SECONDS = 20.0
"""How long processes may take to end when another one failed. They notice it when they wait for it."""
POLL_SECONDS = 0.5
MAX_CHARACTERS = 20_000
"""Of the errors of a process."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    code: int | None
    """Its exit code, negative for a signal; None if its worker or node was lost."""
    errors: str = ""
    """The last that it wrote to standard error."""
    was_asked: bool = False
    """Whether it was killed because of another one."""

    @property
    def is_lost(self) -> bool:
        """Whether it was killed, and nobody here did that."""
        return not self.was_asked and (self.code is None or self.code < 0)


class ProcessActor:
    """Starts one process, on the node where Ray puts it, and reports how it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 open as long as the actor lives
        self._store: Any = None

    def node(self) -> str:
        """The id of the node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def serve_store(self) -> tuple[str, int]:
        """Serve the key-value store of the group from here; returns the host and port."""
        import ray
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        return host, int(self._store.port)

    def sees(self, path: str, text: str) -> bool:
        """Whether a file with this text is here."""
        with suppress(OSError):
            return Path(path).read_text(encoding="utf-8") == text
        return False

    def start(self, words: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start the process."""
        environment = {"OMP_NUM_THREADS": "1", **os.environ, **variables}
        self._process = subprocess.Popen(
            [sys.executable, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def ended(self) -> tuple[int, str] | None:
        """The exit code and errors of the process; None while it runs."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - MAX_CHARACTERS))
        return code, self._errors.read().decode("utf-8", "replace")

    def send(self, number: int) -> None:
        """Send a signal to the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


@dataclass(frozen=True, kw_only=True)
class SharedFolder:
    """A folder that the first process writes and the caller reads."""

    marker: Path
    """A file in it, with a text that no other file has."""
    text: str


def run_until_done(
    ray: Any,
    words: Callable[[int], Sequence[str]],
    count: int,
    *,
    folder: SharedFolder,
    gpus: bool = False,
    watch: Callable[[], bool],
) -> list[Ended]:
    """Run a command in processes of a cluster; if one is lost, run it again in all, up to `RETRIES` times.

    Args:
        ray: As `tsa.scale.cluster.ray_cluster` yields it.
        words: The arguments of `tsa` for each attempt, from 0. A later attempt continues what the one before has saved.
        count: Number of processes.
        folder: What the first process must see.
        gpus: Whether each process gets a GPU.
        watch: Called often; True asks the processes to stop, once, with SIGTERM.

    Returns:
        How each process ended, by rank. None of them was lost.

    Raises:
        ClusterError: If processes are lost again and again, the cluster has too few processors, or the first process does not
            see the folder.
    """
    for attempt in range(RETRIES + 1):
        with _reserved(ray, count, gpus, watch) as actors:
            if actors is None:
                return [Ended(code=128 + signal.SIGTERM)] * count
            ended = _run(ray, actors, words(attempt), folder, gpus, watch)
        lost = [rank for rank, one in enumerate(ended) if one.is_lost]
        if not lost:
            return ended
        logger.warning("process %d was lost (%s): all start again", lost[0], _how(ended[lost[0]]))
    rule = f"the work must not lose its workers more than {RETRIES} times"
    how = _how(ended[lost[0]])
    raise ClusterError(
        f"{rule} (the last time process {lost[0]}: {how}; out of memory?): see the logs of the Ray cluster"
    )


def _how(ended: Ended) -> str:
    if ended.code is None:
        return "its worker or node died"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-ended.code).name}"
    return f"killed by signal {-ended.code}"


@contextmanager
def _reserved(ray: Any, count: int, gpus: bool, watch: Callable[[], bool]) -> Iterator[list[Any] | None]:
    """An actor for each process, all reserved before the first is started; None if `watch` asks to stop before."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    needs = {"CPU": 1.0, **({"GPU": 1.0} if gpus else {})}
    group = ray.util.placement_group([needs] * count, strategy="PACK")
    actors: list[Any] = []
    try:
        if not _wait_for(ray, group, f"{count} free processors" + (" with a GPU each" if gpus else ""), watch):
            yield None
            return
        for rank in range(count):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            options = {"num_cpus": 1, "num_gpus": int(gpus), "scheduling_strategy": place}
            actors.append(ray.remote(ProcessActor).options(**options).remote())
        yield actors
    finally:
        for actor in actors:
            with suppress(ray.exceptions.RayError):
                ray.get(actor.send.remote(signal.SIGKILL), timeout=GRACE_SECONDS)
            ray.kill(actor)
        ray.util.remove_placement_group(group)


def _wait_for(ray: Any, group: Any, what: str, watch: Callable[[], bool]) -> bool:
    """Wait for a reservation. False if `watch` asks to stop before. Raises ClusterError if it takes too long."""
    until, was_said = time.monotonic() + RESERVE_SECONDS, False
    while not group.wait(POLL_SECONDS):
        if watch():
            return False
        if time.monotonic() > until:
            has = f"{ray.cluster_resources().get('CPU', 0):g} in all"
            rule = f"the cluster must have {what} within {RESERVE_SECONDS:g} s (it has {has})"
            raise ClusterError(f"{rule}: use fewer --workers, or add nodes")
        if not was_said and time.monotonic() > until - RESERVE_SECONDS + GRACE_SECONDS:
            was_said = True
            logger.warning("waiting for %s of the cluster", what)
    return True


def _run(
    ray: Any, actors: Sequence[Any], words: Sequence[str], folder: SharedFolder, gpus: bool, watch: Callable[[], bool]
) -> list[Ended]:
    """One attempt."""
    try:
        if not ray.get(actors[0].sees.remote(str(folder.marker), folder.text)):
            raise ClusterError(
                f"{folder.marker.parent} must be a folder that all nodes of the cluster share (a worker does not see it): use "
                "another folder"
            )
        variables = _variables(ray, actors, gpus)
        ray.get([actor.start.remote([*PROGRAM, *words], own) for actor, own in zip(actors, variables, strict=True)])
    except ray.exceptions.RayActorError:
        return [Ended(code=None)] + [Ended(code=0, was_asked=True)] * (len(actors) - 1)
    return _wait(ray, actors, watch)


def _variables(ray: Any, actors: Sequence[Any], gpus: bool) -> list[dict[str, str]]:
    """What torchrun sets for each process."""
    host, port = ray.get(actors[0].serve_store.remote())
    nodes = ray.get([actor.node.remote() for actor in actors])
    shared = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "WORLD_SIZE": str(len(actors))}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    # a process with a GPU of its own sees no other
    local = [0 if gpus else nodes[:rank].count(node) for rank, node in enumerate(nodes)]
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(local[rank])} for rank in range(len(actors))]


def _wait(ray: Any, actors: Sequence[Any], watch: Callable[[], bool]) -> list[Ended]:
    """Wait for all processes; if one fails, the others have `GRACE_SECONDS` to end."""
    ended: dict[int, Ended] = {}
    is_stopping, failed_at, was_killed = False, None, False
    while True:
        for rank, actor in enumerate(actors):
            if rank not in ended and (one := _ended(ray, actor, was_killed)) is not None:
                ended[rank] = one
        if len(ended) == len(actors):
            return [ended[rank] for rank in range(len(actors))]
        if watch() and not is_stopping:
            is_stopping = True
            _send(ray, actors, signal.SIGTERM)
        if failed_at is None and not is_stopping and any(one.code != 0 for one in ended.values()):
            failed_at = time.monotonic()
        if failed_at is not None and not was_killed and time.monotonic() - failed_at > GRACE_SECONDS:
            was_killed = True
            _send(ray, actors, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _ended(ray: Any, actor: Any, was_killed: bool) -> Ended | None:
    try:
        one = ray.get(actor.ended.remote())
    except ray.exceptions.RayActorError:
        return Ended(code=None, was_asked=was_killed)
    return None if one is None else Ended(code=one[0], errors=one[1], was_asked=was_killed)


def _send(ray: Any, actors: Sequence[Any], number: int) -> None:
    for actor in actors:
        with suppress(ray.exceptions.RayActorError):
            ray.get(actor.send.remote(number))
