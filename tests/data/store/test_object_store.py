"""Stores in a bucket of a real S3 server on loopback: fetched once, checked, continued after a kill, within the cache's space."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import polars as pl
import pytest

from support.easy_log import MARKET, TINY, settings, stored
from support.s3_bucket import SECRET, s3_bucket
from tsa.config.market import Market
from tsa.data.store import object_store
from tsa.data.store.append import append
from tsa.data.store.manifest import MANIFEST
from tsa.data.store.object_store import PART, PENDING, fetch, is_store, upload
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore, open_referred
from tsa.errors import ConfigError, StoreError
from tsa.evaluation.trained_run import TrainedRun
from tsa.files import cache as cache_module
from tsa.files.object_folder import ObjectFolder, object_url
from tsa.files.writing import sha256_of
from tsa.training import train
from tsa.training.run_folder import store_reference

DAY = 86_400
START = 1_525_651_200
URL = "s3://stores/eu/cards"


def log(n: int = 400, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": [f"p{seed}-{at:04}" for at in range(n)],
            "time": np.sort(rng.uniform(START, START + 16 * DAY, n)),
            "amount": rng.uniform(1, 100, n),
            "fraud": rng.integers(0, 2, n),
            "customer": rng.integers(0, 20, n),
            "category": rng.choice(["a", "b"], n),
        }
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return stored(log(), tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_bucket("stores") as name:
        yield name


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket and an empty cache."""
    monkeypatch.setenv("TSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_module, "_in_use", {})
    client = boto3.Session().client("s3")
    yield client
    keys = [{"Key": entry["Key"]} for entry in client.list_objects_v2(Bucket=server).get("Contents", [])]
    if keys:
        client.delete_objects(Bucket=server, Delete={"Objects": keys})


def names(client: Any) -> set[str]:
    """The objects; PyArrow makes empty ones for folders, whose names end in `/`."""
    keys = {entry["Key"] for entry in client.list_objects_v2(Bucket="stores").get("Contents", [])}
    return {key for key in keys if not key.endswith("/")}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_comes_back_equal_to_the_byte(bucket: Any, local: EventStore, tmp_path: Path) -> None:
    upload(local.path, URL)
    assert names(bucket) == {f"eu/cards/{name}" for name in files_of(local.path)}
    store = EventStore.open(Path(URL), local.market, verify=True)  # a command makes a path of it
    assert files_of(store.path) == files_of(local.path)
    assert (store.url, store.path.parent) == (URL, tmp_path / "cache")
    assert store.path.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in store.path.iterdir())
    assert store.reopened().url == URL
    assert open_referred(tmp_path / "run", store_reference(store, tmp_path / "run")).path == store.path


def test_it_is_fetched_once_and_what_a_kill_left_is_used(
    bucket: Any, local: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(local.path, URL)
    copy = fetch(URL)
    pieces: list[bytes] = []
    download = ObjectFolder.download

    def counted(self: ObjectFolder, name: str, path: Path, size: int, taken: Callable[[bytes], None]) -> None:
        download(self, name, path, size, lambda piece: (pieces.append(piece), taken(piece))[1])

    monkeypatch.setattr(ObjectFolder, "download", counted)
    fetch(URL)
    assert pieces == []
    whole = (copy / "rows.parquet").read_bytes()
    (copy / MANIFEST).unlink()  # as after a kill: one file is there in part, another is not there
    (copy / "rows.parquet").unlink()
    (copy / f"rows.parquet{PART}").write_bytes(whole[:1000])
    (copy / "label.npy").unlink()
    fetch(URL)
    assert sum(map(len, pieces)) == len(whole) - 1000 + (copy / "label.npy").stat().st_size
    assert files_of(copy) == files_of(local.path)


def test_bytes_that_are_not_those_of_the_manifest_are_refused(bucket: Any, local: EventStore) -> None:
    upload(local.path, URL)
    content = bytearray((local.path / "label.npy").read_bytes())
    content[-1] ^= 1
    bucket.put_object(Bucket="stores", Key="eu/cards/label.npy", Body=bytes(content))
    with pytest.raises(StoreError, match=r"eu/cards/label\.npy was changed: its sha256"):
        EventStore.open(URL)
    bucket.put_object(Bucket="stores", Key="eu/cards/label.npy", Body=bytes(content[:-1]))
    with pytest.raises(StoreError, match=r"label\.npy must have \d+ bytes"):
        EventStore.open(URL)
    bucket.delete_object(Bucket="stores", Key="eu/cards/label.npy")
    with pytest.raises(StoreError, match="lacks an object"):
        EventStore.open(URL)
    manifest = json.loads((local.path / MANIFEST).read_bytes())
    manifest["files"] = {"../outside": {"bytes": 1, "sha256": ""}}
    bucket.put_object(Bucket="stores", Key=f"eu/cards/{MANIFEST}", Body=json.dumps(manifest).encode())
    with pytest.raises(StoreError, match="must be the manifest of a store"):
        EventStore.open(URL)


def test_an_upload_that_was_killed_is_no_store_and_is_continued(
    bucket: Any, local: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(local.path, URL)
    bucket.put_object(Bucket="stores", Key="eu/cards/label.npy", Body=(local.path / "label.npy").read_bytes()[::-1])
    upload(local.path, URL)
    with pytest.raises(StoreError, match="was changed"):  # a store that is there is not uploaded again
        fetch(URL)
    write, sent = ObjectFolder.upload, list[str]()
    bucket.delete_object(Bucket="stores", Key=f"eu/cards/{MANIFEST}")
    bucket.put_object(Bucket="stores", Key=f"eu/cards/{PENDING}", Body=b"of another store")

    def failing(self: ObjectFolder, path: Path, name: str) -> None:
        if len(sent) == 5:
            raise OSError(28, "disk full")
        sent.append(name)
        write(self, path, name)

    monkeypatch.setattr(object_store, "THREADS", 1)
    monkeypatch.setattr(ObjectFolder, "upload", failing)
    with pytest.raises(OSError, match="disk full"):
        upload(local.path, URL)
    assert f"eu/cards/{MANIFEST}" not in names(bucket)
    with pytest.raises(StoreError, match="its upload has not ended"):
        EventStore.open(URL)
    begun = list(sent)
    monkeypatch.setattr(
        ObjectFolder, "upload", lambda self, path, name: (sent.append(name), write(self, path, name))[1]
    )
    upload(local.path, URL)
    assert len(set(sent)) == len(sent) == len(files_of(local.path)) - 1
    assert sent[: len(begun)] == begun
    assert files_of(fetch(URL)) == files_of(local.path)
    assert f"eu/cards/{PENDING}" not in names(bucket)


def test_prepare_and_append_write_to_a_url(bucket: Any, tmp_path: Path, tsa: Callable[..., Any]) -> None:
    table = log()
    early, late = table.filter(pl.col("time") < START + 15 * DAY), table.filter(pl.col("time") >= START + 15 * DAY)
    for name, part in {"early": early, "late": late}.items():
        part.write_parquet(tmp_path / f"{name}.parquet")
    market = Market.from_dict({**MARKET, "split": {"fractions": [0.4, 0.2, 0.2, 0.2]}})
    (tmp_path / "market.json").write_text(json.dumps(market.to_dict()))
    made = prepare(market, tmp_path / "early.parquet", URL)
    assert files_of(made.path) == files_of(prepare(market, tmp_path / "early.parquet", tmp_path / "early").path)
    outcome = tsa("prepare", "--append", URL, tmp_path / "late.parquet")
    assert outcome.code == 0, outcome.err
    assert f"{len(late)} events are new" in outcome.out
    here = append(tmp_path / "early", tmp_path / "late.parquet").store
    there = EventStore.open(URL)
    assert files_of(there.path) == files_of(here.path)
    assert not list(tmp_path.rglob("s3:*"))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


def test_a_run_names_the_url_of_its_store(bucket: Any, local: EventStore, tmp_path: Path) -> None:
    upload(local.path, URL)
    train(URL, tmp_path / "run", training=settings(epochs=1), model={**TINY, "parts": "network"})
    assert json.loads((tmp_path / "run" / "run.json").read_text())["store"] == URL
    (tmp_path / "cache").rename(tmp_path / "other-cache")  # as on another machine
    assert TrainedRun.open(tmp_path / "run").store.url == URL
    assert (tmp_path / "cache").is_dir()


def test_other_objects_are_not_replaced(bucket: Any, local: EventStore) -> None:
    bucket.put_object(Bucket="stores", Key="eu/cards/notes.txt", Body=b"mine")
    with pytest.raises(ConfigError, match=r"must be empty or have a store \(it has notes.txt\)"):
        upload(local.path, URL)
    with pytest.raises(ConfigError, match=r"it has the folder cards"):
        prepare(local.market, local.path / "none.parquet", "s3://stores/eu")
    bucket.put_object(Bucket="stores", Key="bundle/manifest.json", Body=b'{"kind": "tsa bundle"}')
    with pytest.raises(StoreError, match="must be the manifest of a store"):
        upload(local.path, "s3://stores/bundle")
    assert names(bucket) == {"eu/cards/notes.txt", "bundle/manifest.json"}


def test_the_cache_removes_what_nobody_uses(
    bucket: Any, local: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(map(len, files_of(local.path).values()))
    places = []
    for seed in range(3):
        folder = tmp_path / f"log{seed}"
        folder.mkdir()
        upload(stored(log(seed=seed), folder).path, f"s3://stores/{seed}")
    monkeypatch.setenv("TSA_CACHE_GB", str(2.5 * size / 1e9))
    for seed in range(2):
        places.append(fetch(f"s3://stores/{seed}"))
        os.utime(places[seed], (seed, seed))
    with pytest.raises(StoreError, match="raise TSA_CACHE_GB"):  # both are in use
        fetch("s3://stores/2")
    cache_module._in_use.pop(places[1]).close()
    fetch("s3://stores/2")
    assert places[0].exists(), "it is the oldest, but in use"
    assert not places[1].exists()
    monkeypatch.setenv("TSA_CACHE_GB", "none")
    with pytest.raises(ConfigError, match="TSA_CACHE_GB must be a number"):
        fetch(URL)


HOLDING = """
import sys, time
from pathlib import Path
from tsa.files.cache import Cache
with Cache(Path(sys.argv[1])).filling(sys.argv[2]) as place:
    (place / "label.npy.part").write_bytes(b"")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_process_waits_for_one_that_fetches_the_same_and_is_killed(
    bucket: Any, local: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(local.path, URL)
    key = sha256_of(local.path / MANIFEST)
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "cache"), key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        waits = list[float]()

        def kill(seconds: float) -> None:
            waits.append(seconds)
            other.kill()
            other.wait()

        monkeypatch.setattr(object_store.time, "sleep", kill)
        copy = fetch(URL)
    assert waits
    assert files_of(copy) == files_of(local.path)


def test_credentials_are_in_no_message_and_not_taken_from_a_url(
    bucket: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as refused:
        EventStore.open("s3://user:hunter2@stores/eu")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError, match="s3://BUCKET/FOLDER"):
        EventStore.open("s3://stores")
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(StoreError, match=r"manifest.json is missing: there is no store"):
            EventStore.open("s3://stores/none")
        with pytest.raises(StoreError, match=r"cannot be reached: .*NO_SUCH_BUCKET"):
            upload_nothing("s3://others/none")
        monkeypatch.setattr("tsa.files.object_folder.CONNECT_SECONDS", 0.2)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreError, match=r"cannot be reached: .*check the bucket, the network") as failed:
            EventStore.open(URL)
    assert SECRET not in caplog.text + str(failed.value)


def upload_nothing(url: str) -> None:
    ObjectFolder.open(url).write("x", b"1")


def test_names_of_stores(local: EventStore, tmp_path: Path) -> None:
    assert is_store(local.path)
    assert is_store("s3://stores/eu")
    assert is_store("gs://stores/eu")
    for name in ("s3://stores/log.parquet", "s3://stores/*.csv.gz", tmp_path, tmp_path / "log.csv"):
        assert not is_store(name)
    assert object_url(Path("gs://b-1/a/")) == "gs://b-1/a"
    assert object_url("s3x") is None
