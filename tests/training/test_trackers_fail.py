"""Trackers that go away, hang or come back: the run goes on, and what they did not take is kept. One that is down at the
start is refused before anything is written."""

from __future__ import annotations

import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.easy_log import TINY, settings
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.training import train
from tsa.training.trackers import queue as tracker_queue
from tsa.training.trackers.queue import RecordQueue
from tsa.training.tracking import draw_curves


class Tracker(http.server.ThreadingHTTPServer):
    """An MLflow that answers what it must, until it is told to be down; the steps that it was told."""

    def __init__(self) -> None:
        self.down: Callable[[str], bool] = lambda path: False
        self.steps: list[int] = []
        self.ended: list[str] = []
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Tracker

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        down = self.server.down(self.path)
        info = {"run_id": "a" * 32, "run_uuid": "a" * 32, "experiment_id": "0", "status": "RUNNING", "start_time": 1}
        found = {"run": {"info": info, "data": {}}, "experiment": {"experiment_id": "0", "name": "Default"}}
        said = {"error_code": "INTERNAL_ERROR", "message": "QueuePool limit"} if down else found
        if not down and self.path.endswith("log-batch"):
            self.server.steps += sorted({metric["step"] for metric in json.loads(body).get("metrics", [])})
        if not down and self.path.endswith("runs/update"):
            self.server.ended.append(json.loads(body)["status"])
        data = json.dumps(said).encode()
        self.send_response(500 if down else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    pytest.importorskip("mlflow")
    found = Tracker()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{found.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_mlflow_that_answers(easy_store: EventStore, tmp_path: Path, tracker: Tracker) -> None:
    train(easy_store, tmp_path / "run", model=TINY, training=settings())
    assert tracker.steps == [1, 2, 3]
    assert tracker.ended == ["FINISHED"]


def test_mlflow_that_goes_away_ends_no_run(
    easy_store: EventStore, tmp_path: Path, tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.down = lambda path: "log-batch" in path and bool(tracker.steps)
    train(easy_store, tmp_path / "run", model=TINY, training=settings())
    assert (tmp_path / "run" / "bundle" / "manifest.json").exists()
    assert tracker.steps == [1]
    assert "finished" in json.loads((tmp_path / "run" / "run.json").read_text())
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("MLflow does not accept records" in line for line in said)
    assert any("MLflow did not receive the records of the last" in line for line in said)


def test_mlflow_that_comes_back_gets_what_it_missed(easy_store: EventStore, tmp_path: Path, tracker: Tracker) -> None:
    refused: list[str] = []

    def down(path: str) -> bool:
        if "log-batch" not in path or not tracker.steps or len(refused) == 2:
            return False
        refused.append(path)
        return True

    tracker.down = down
    bundle = train(easy_store, tmp_path / "run", model=TINY, training=settings(epochs=6))
    assert refused
    assert tracker.steps == [record["epoch"] for record in bundle.training["epochs"]]
    assert len(tracker.steps) > 2


def test_mlflow_that_is_down_at_the_start_is_one_sentence(
    easy_store: EventStore, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.down = lambda path: True
    with pytest.raises(
        ConfigError, match=r"MLFLOW_TRACKING_URI must be the address of a running MLflow \(got http://127"
    ):
        train(easy_store, tmp_path / "run", model=TINY, training=settings())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(ConfigError, match="must be the address of a running MLflow") as caught:
        train(easy_store, tmp_path / "run", model=TINY, training=settings())
    assert "secret" not in str(caught.value)
    assert "secret" not in tracker_queue.error_text(ConnectionError("to http://user:secret@127.0.0.1:9 it failed"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "carrier-pigeon://x")
    with pytest.raises(ConfigError, match="must be the address of a running MLflow"):
        train(easy_store, tmp_path / "run", model=TINY, training=settings())
    assert not (tmp_path / "run").exists()


def test_tensorboard_that_cannot_write_ends_no_run(
    easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    train(easy_store, tmp_path / "run", model=TINY, training=settings(tensorboard=True))
    assert (tmp_path / "run" / "bundle" / "manifest.json").exists()
    assert "TensorBoard does not accept records" in caplog.text


def test_a_tracker_that_hangs_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracker_queue, "CLOSE_SECONDS", 0.2)
    released = threading.Event()
    hanging = RecordQueue("Stone", lambda record: released.wait(30), lambda well: None)
    begun = time.monotonic()
    for number in range(100):
        hanging(number)
    hanging.close(True)
    assert time.monotonic() - begun < 2
    assert "Stone does not answer" in caplog.text
    assert "Stone did not receive the records of the last 100 epochs" in caplog.text
    released.set()


def test_records_come_in_order_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_queue, "RETRY_SECONDS", 0.01)
    taken: list[int] = []
    ends: list[bool] = []
    failures = iter([False, True, True, False, True, False, False])

    def write(record: int) -> None:
        if next(failures, False):
            raise ConnectionError("away")
        taken.append(record)

    found = RecordQueue("Mill", write, ends.append)
    for number in range(5):
        found(number)
    deadline = time.monotonic() + 10
    while len(taken) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    found.close(False)
    assert taken == [0, 1, 2, 3, 4]
    assert ends == [False]


def test_a_picture_that_cannot_be_drawn_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("no folder")
    draw_curves([{"epoch": 1, "loss": 0.5}], tmp_path / "file" / "curves.png")
    assert "curves.png was not drawn" in caplog.text
