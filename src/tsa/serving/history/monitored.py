"""A history store wrapper with metrics and a circuit breaker.

Failures are logged when their reason changes, not for each payment. After several slow failures in a row the circuit opens:
calls fail at once, and a separate thread tries the store until it answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, Self

from tsa.errors import HistoryLost, HistoryUnavailable
from tsa.serving.history.base import HistoryStore, StoreKey, VersionedValue, WriteBatch
from tsa.serving.history.identity import Seen

SLOW_SECONDS = 0.1
"""A failure that took longer counts as slow."""
SLOW_FAILURES = 3
"""Slow failures in a row that open the circuit."""
PROBE_SECONDS = 0.5
"""Time between two tries while the circuit is open."""

_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Receives metrics. Called from several threads."""

    def history_call(self, seconds: float) -> None:
        """A call took this long."""
        ...

    def history_failed(self, reason: str) -> None:
        """A call failed, for one of `REASONS`."""
        ...

    def history_circuit(self, is_open: bool) -> None:
        """The circuit was opened or closed."""
        ...


class MonitoredStore:
    """Wraps another store."""

    def __init__(self, store: HistoryStore, watcher: Watcher | None = None) -> None:
        self._store, self._watcher = store, watcher
        if watcher is not None:
            store.on_failure(watcher.history_failed)
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}
        """The last failure of each kind of call that fails."""
        self._since: dict[str, float] = {}
        self._slow: dict[str, int] = {}
        """Slow failures in a row of each kind of call."""
        self._open: HistoryUnavailable | None = None
        """The failure that opened the circuit; None while it is closed."""
        self._closing = threading.Event()
        self._prober: threading.Thread | None = None

    @property
    def turns(self) -> int:
        """As the store's."""
        return self._store.turns

    @property
    def seen(self) -> Seen | None:
        """As the store's."""
        return self._store.seen

    def read(self, places: Sequence[StoreKey]) -> dict[StoreKey, VersionedValue]:
        """As the store's; HistoryUnavailable at once while it does not answer."""
        with self._watched("read"):
            return self._store.read(places)

    def check_absent(self, places: Sequence[StoreKey]) -> None:
        """As the store's; HistoryUnavailable at once while it does not answer."""
        with self._watched("read"):
            self._store.check_absent(places)

    def commit(self, change: WriteBatch) -> bool:
        """As the store's; HistoryUnavailable at once while it does not answer."""
        with self._watched("written"):
            return self._store.commit(change)

    def scan(self, namespace: str) -> Iterator[tuple[StoreKey, VersionedValue]]:
        """As the store's; not watched."""
        return self._store.scan(namespace)

    def compact(self) -> None:
        """As the store's; not watched."""
        self._store.compact()

    def check(self) -> None:
        """As the store's; not watched."""
        self._store.check()

    def adopt(self) -> None:
        """As the store's; not watched."""
        self._store.adopt()

    def on_failure(self, call: Callable[[str], object]) -> None:
        """As the store's."""
        self._store.on_failure(call)

    def close(self) -> None:
        """As the store's."""
        self._closing.set()
        if self._prober is not None:
            self._prober.join()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        watcher, begun = self._watcher, time.perf_counter()
        if (why := self._open) is not None:
            if watcher is not None:
                watcher.history_failed(why.reason)
            raise HistoryUnavailable(f"{why} (no request is sent to it until it answers a check)", why.reason)
        try:
            yield
        except HistoryUnavailable as error:
            if watcher is not None:
                watcher.history_failed(error.reason)
            self._failed(what, error, time.perf_counter() - begun)
            raise
        finally:
            if watcher is not None:
                watcher.history_call(time.perf_counter() - begun)
        self._slow.pop(what, None)
        if what in self._reasons:
            self._works(what)

    def _switched(self, is_open: bool) -> None:
        if self._watcher is not None:
            self._watcher.history_circuit(is_open)

    def _failed(self, what: str, error: HistoryUnavailable, seconds: float) -> None:
        with self._lock:
            if self._reasons.get(what) != error.reason:
                self._reasons[what] = error.reason
                self._since.setdefault(what, time.monotonic())
                _log.error("histories cannot be %s (%s): %s", what, error.reason, error)
            self._slow[what] = self._slow.get(what, 0) + 1 if seconds > SLOW_SECONDS else 0
            if self._slow[what] < SLOW_FAILURES or self._open is not None or self._closing.is_set():
                return
            self._open = error
            self._prober = threading.Thread(target=self._probe, name="history-probe", daemon=True)
            self._prober.start()
        _log.error("the history store is not asked until it answers: %d calls in a row were waited for", SLOW_FAILURES)
        self._switched(True)

    def _works(self, what: str) -> None:
        with self._lock:
            if self._reasons.pop(what, None) is not None:
                _log.warning("histories can be %s again, after %.1f s", what, time.monotonic() - self._since.pop(what))

    def _probe(self) -> None:
        """Try the store until it answers, even with an error."""
        while not self._closing.wait(PROBE_SECONDS):
            begun = time.monotonic()
            try:
                self._store.check()
            except HistoryLost:
                pass
            except HistoryUnavailable:
                if time.monotonic() - begun > SLOW_SECONDS:
                    continue
            except Exception:
                _log.exception("the history store could not be tried")
                continue
            break
        self._slow.clear()
        self._open = None
        self._switched(False)
        if not self._closing.is_set():
            _log.warning("the history store answers and is asked again")
