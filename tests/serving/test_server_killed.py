"""`tsa serve` killed at random moments under load: nothing that a client was told is missing, nothing stands twice."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

import httpx
import numpy as np
import pytest

from support.endpoint import served
from support.history_case import Case, Row, assert_nothing_lost, assert_same, random_rows, request
from tsa.serving.history.factory import open_history

pytestmark = pytest.mark.slow

LONG = bool(os.environ.get("TSA_LONG"))
KILLS = 20 if LONG else 3


class Client:
    """Sends a log of its own, payment by payment, and goes on where it was not answered."""

    def __init__(self, name: str, seed: int) -> None:
        rows = random_rows(4000, seed, cards=12, shops=5)
        for row in rows:
            own = {at: f"{name}{row[at]}" for at in ("id", "card", "shop") if row[at] is not None}
            row.update(own, fraud=None, reported=None)
        self.rows: list[Row] = rows
        self.scores: dict[str, float] = {}
        self.refused: list[str] = []

    def send(self, url: str, most: int) -> None:
        """Until the server is gone. It begins a little early, as a client does that is not sure what was taken in."""
        first = max(0, len(self.scores) - 2)
        with httpx.Client(base_url=url, timeout=30) as client:
            for row in self.rows[first : first + most]:
                try:
                    answer = client.post("/v1/score", json=request(row))
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    self.refused.append(answer.text)
                    return
                self.scores.setdefault(row["id"], answer.json()["raw_score"])


def run(clients: Sequence[Client], url: str, most: int = 4000) -> list[threading.Thread]:
    threads = [threading.Thread(target=client.send, args=(url, most)) for client in clients]
    for thread in threads:
        thread.start()
    return threads


def test_killed_under_load(case: Case, history_url: str) -> None:
    if history_url.startswith("redis") and not LONG:
        pytest.skip("TSA_LONG=1 also kills a server whose histories are in Redis")
    clients, rng = [Client(name, seed) for seed, name in enumerate("wxyz")], np.random.default_rng(3)
    rows = sorted((row for client in clients for row in client.rows), key=lambda row: row["time"])
    for _ in range(KILLS):
        before = [len(client.scores) for client in clients]
        with served(case.path, history_url) as (process, url):
            threads = run(clients, url)
            while any(len(client.scores) < at + 3 for client, at in zip(clients, before, strict=True)):
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(float(rng.uniform(0, 0.4)))
            process.kill()
            for thread in threads:
                thread.join()
        assert not any(client.refused for client in clients)
        with open_history(history_url) as store:
            assert_nothing_lost(store, rows, [id_ for client in clients for id_ in client.scores])
    with served(case.path, history_url) as (_, url):  # what was taken in unanswered is asked for again, and it goes on
        for thread in run(clients, url, most=40):
            thread.join()
    found = {id_: score for client in clients for id_, score in client.scores.items()}
    assert not any(client.refused for client in clients)
    assert_same(found, case.offline(rows))
