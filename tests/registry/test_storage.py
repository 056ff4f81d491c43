"""Storages: objects are written once and completely, whatever they are kept in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from support.endpoint import made_bundle
from support.s3_bucket import s3_bucket
from tsa.bundle.bundle import Bundle
from tsa.errors import RegistryError
from tsa.registry import Registry
from tsa.registry.storage import FolderStorage, S3Storage, Storage, open_storage


def check_storage(storage: Storage) -> None:
    """What every storage must do."""
    assert storage.read("a/b.json") is None
    assert storage.names("a/") == []
    assert storage.create("a/b.json", b"1")
    assert not storage.create("a/b.json", b"2")
    assert storage.read("a/b.json") == b"1"
    assert storage.create("a/c/d.json", b"")
    assert storage.create("b.json", b"3")
    assert storage.names("a/") == ["a/b.json", "a/c/d.json"]
    assert storage.names("none/") == []
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda at: storage.create("one", bytes([at]) * 1000), range(8)))
    assert sum(made) == 1
    assert storage.read("one") == bytes([made.index(True)]) * 1000


def test_a_folder(tmp_path: Path) -> None:
    check_storage(FolderStorage(tmp_path / "new" / "registry"))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def bucket() -> Iterator[str]:
    with s3_bucket("models") as name:
        yield name


def test_a_bucket(bucket: str) -> None:
    check_storage(S3Storage(bucket, "cards/eu"))
    check_storage(S3Storage(bucket))
    assert S3Storage(bucket).names("cards/")[0] == "cards/eu/a/b.json"


def test_a_registry_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    url = f"s3://{bucket}/registry"
    registry = Registry.open(url)
    shas = [registry.publish(made_bundle(tmp_path / name, seed=at), by="ann").sha256 for at, name in enumerate("ab")]
    for sha in shas:
        registry.promote(sha, by="ann")
    registry.rollback(by="bob")
    assert Registry.open(url).pull("champion", tmp_path / "out").sha256 == shas[0]
    assert Bundle.open(tmp_path / "out").sha256 == shas[0]


def test_a_bucket_that_is_not_there_is_one_clear_sentence(bucket: str) -> None:
    for use in (lambda s: s.read("x"), lambda s: s.create("x", b""), lambda s: s.names("x/")):
        with pytest.raises(RegistryError, match=r"s3://other cannot be reached: .*NoSuchBucket"):
            use(S3Storage("other"))


def test_missing_credentials_are_one_clear_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(RegistryError, match="Unable to locate credentials; check the bucket, the network"):
        S3Storage("models").read("x")


@pytest.mark.parametrize(("url", "place"), [("{}/r", "{}/r"), ("file://{}/r", "{}/r")])
def test_folders_by_url(tmp_path: Path, url: str, place: str) -> None:
    storage = open_storage(url.format(tmp_path))
    assert isinstance(storage, FolderStorage)
    assert storage.url == place.format(tmp_path)


def test_buckets_by_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    storage = open_storage("s3://models/cards/eu/")
    assert isinstance(storage, S3Storage)
    assert storage.url == "s3://models/cards/eu"


@pytest.mark.parametrize("url", ["http://x/y", "file://host/x", "s3://", "ftp:/x", "s3:///x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(RegistryError, match="a registry must be a folder, file:///FOLDER, s3://BUCKET/PREFIX, mlflow"):
        open_storage(url)


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "RequestExpired"])
def test_a_wrong_clock_is_one_clear_sentence(code: str) -> None:
    def get_object(**_: object) -> object:
        raise ClientError({"Error": {"Code": code, "Message": "the times differ"}}, "GetObject")

    storage = S3Storage("models", client=SimpleNamespace(get_object=get_object))
    with pytest.raises(
        RegistryError, match=f"s3://models cannot be reached: .*{code}.*; set the clock of this machine"
    ):
        storage.read("registry.json")
