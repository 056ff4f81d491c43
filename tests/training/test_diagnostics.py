"""What can go wrong with numbers and machines: one error each that says what, where and what to do."""

from __future__ import annotations

import errno
import json
import multiprocessing
import re
import resource
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors import SafetensorError

from support.easy_log import MARKET, TINY, alone, settings, stored
from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import StoreError, TrainingError
from tsa.model import TSANetwork
from tsa.training import checkpoint, train
from tsa.training.diagnostics import find_max_batch_size, out_of_memory, translate_resource_errors
from tsa.training.train_step import TrainStep
from tsa.training.trainer import Trainer


def test_a_loss_that_is_not_finite(
    easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stops before the step, says where and with which payments, and leaves the last good checkpoint."""
    original, seen = TrainStep.loss, []

    def spoiled(self: TrainStep, part: Any, epoch: int) -> torch.Tensor:
        seen.append(part.task.rows)
        loss = original(self, part, epoch)
        return loss * float("nan") if len(seen) == 12 else loss

    monkeypatch.setattr(TrainStep, "loss", spoiled)
    with pytest.raises(TrainingError) as raised:
        train(easy_store, tmp_path / "run", model=TINY, training=settings(checkpoint_every_minutes=1e-9))
    ids = easy_store.ids()[seen[-1]].to_list()
    found = re.fullmatch(
        r"the loss and its gradient must be finite [(]got loss=nan, gradient norm=nan at rate ([0-9.e-]+), "
        r"in epoch 1, step 12, payments (.*) and 59 more \(see the log\)[)]; earlier checkpoints are not affected",
        str(raised.value),
    )
    assert found is not None, raised.value
    assert 0 < float(found[1]) <= 0.02
    assert found[2] == ", ".join(map(str, ids[:5]))
    assert "the payments of epoch 1, step 12: " + ", ".join(map(str, ids)) in caplog.text
    newest = max((tmp_path / "run" / "checkpoints").glob("last-*"))
    assert newest.name == "last-000001-000000011"
    monkeypatch.setattr(TrainStep, "loss", original)
    train(easy_store, tmp_path / "run", model=TINY, training=settings(checkpoint_every_minutes=1e-9), resume=True)


def full(*arguments: Any, **settings: Any) -> None:
    """A write to a disk on which there is no room: the real one."""
    with Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x" * 4096)


def full_for_safetensors(*arguments: Any, **settings: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("owner", "name", "how"),
    [
        (checkpoint, "save_file", full_for_safetensors),
        (checkpoint, "write_json", full),
        (Bundle, "save", full),
        (json, "dumps", full),
    ],
    ids=["weights", "manifest", "bundle", "anything"],
)
def test_a_full_disk(
    easy_store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, how: Any
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, how)
        with pytest.raises(TrainingError, match=rf"{out} needs more disk space [(]got [\d,]+ bytes free"):
            train(easy_store, out, model=TINY, training=settings(epochs=1))
    assert not (out / "bundle").exists()
    train(easy_store, out, model=TINY, training=settings(epochs=1), resume=True)
    assert Bundle.open(out / "bundle")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (OSError(errno.EACCES, "no"), SafetensorError("broken header"), RuntimeError("a bug")):
        with pytest.raises(type(error)) as raised, translate_resource_errors(tmp_path):
            raise error
        assert raised.value is error
    with pytest.raises(TrainingError, match="must fit into memory"), translate_resource_errors(tmp_path):
        raise MemoryError("of 8 GiB")


def too_large(path: str, out: str, room: int) -> None:
    """A step for which there are but `room` bytes."""
    torch.set_num_threads(1)
    forward, held = TSANetwork.forward, Path("/proc/self/statm")

    def limited(self: TSANetwork, batch: Any, **how: Any) -> torch.Tensor:
        pages = int(held.read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, -1))
        TSANetwork.forward = forward  # type: ignore[method-assign]
        return forward(self, batch, **how)

    TSANetwork.forward = limited  # type: ignore[method-assign]
    model = {**TINY, "n_frequencies": 1024}
    train(path, out, model=model, training=settings(batch_size=900, checkpoint_every_minutes=60.0))


def test_too_little_memory(easy_store: EventStore, tmp_path: Path) -> None:
    """It says how many payments would have fitted, and how to get by with so few: found by trying."""
    ends = alone(too_large, str(easy_store.path), str(tmp_path / "run"), 200 * 2**20)
    assert ends.error is not None
    found = re.fullmatch(
        r"TrainingError: a step must fit into memory [(]got 900 payments in one of 1 processes[)]; (\d+) fit: "
        r"training.gradient_accumulation_steps=(\d+) does the same in smaller parts, training.batch_size=(\d+) fits as it is",
        ends.error,
    )
    assert found is not None, ends.error
    fits, accumulate, batch_size = map(int, found.groups())
    assert 1 <= fits == batch_size <= 450
    assert 900 / accumulate <= fits < 2 * 900 / (accumulate - 1)


def loses_a_worker(path: str, out: str) -> None:
    original = Trainer._handle_stop_and_save

    def patched(self: Trainer, step: Any) -> None:
        original(self, step)
        for child in multiprocessing.active_children():
            child.kill()

    Trainer._handle_stop_and_save = patched  # type: ignore[method-assign]
    train(path, out, model=TINY, training=settings(num_workers=1, batch_size=16, epochs=50))


def test_a_worker_that_is_killed(easy_store: EventStore, tmp_path: Path) -> None:
    """As the kernel does when there is no memory left."""
    ends = alone(loses_a_worker, str(easy_store.path), str(tmp_path / "run"))
    rule = "TrainingError: a worker process (training.num_workers) ended early"
    assert str(ends.error).startswith(rule), ends


def test_the_largest_fit() -> None:
    for limit, expected in ((1000, 500), (499, 250), (62, 62), (1, 1), (0, 0)):

        def attempt(size: int, limit: int = limit) -> None:
            if size > limit:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

        assert find_max_batch_size(1000, attempt) == expected
    with pytest.raises(ValueError, match="a bug"):
        find_max_batch_size(10, lambda size: (_ for _ in ()).throw(ValueError("a bug")))


def test_what_lack_of_memory_looks_like() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory(OSError(errno.ENOMEM, "fork"))


def test_a_store_without_ranges(easy_store: EventStore, easy_log: Path, tmp_path: Path) -> None:
    """As one is made for scoring."""
    log = tmp_path / "log.parquet"
    pl.read_parquet(easy_log).write_parquet(log)
    store = prepare(Market.from_dict(MARKET), [str(log)], tmp_path / "store", encoder=easy_store.encoder)
    with pytest.raises(StoreError, match="no split 'train'; the store was made with a given encoder and has no splits"):
        train(store, tmp_path / "run", model=TINY, training=settings())
    assert not (tmp_path / "run").exists()


def test_ranges_whose_labels_are_not_known(easy_log: Path, tmp_path: Path) -> None:
    """Nothing to learn from is refused; nothing to check against only where it is needed."""
    log = pl.read_parquet(easy_log)
    late = pl.col("time") >= 1_525_651_200 + 10 * 86_400
    unknown = pl.when(late).then(None).otherwise(pl.col("fraud"))
    store = stored(log.with_columns(fraud=unknown), tmp_path)
    with pytest.raises(TrainingError, match=r"validation range with both outcomes [(]got frauds=0, genuine=0"):
        train(store, tmp_path / "run", model=TINY, training=settings(early_stopping=True))
    bundle = train(store, tmp_path / "run", model=TINY, training=settings(epochs=1, early_stopping=False))
    assert bundle.calibration is not None
    assert bundle.calibration.counts["labelled"] == 0
    assert bundle.calibration.probability is None
    scores = pl.read_parquet(tmp_path / "run" / "calibration_scores.parquet")
    assert scores["label"].null_count() == len(scores) > 0
