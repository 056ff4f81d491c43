"""Where a registry keeps its objects: a folder, or a prefix of a bucket.

Objects are never changed: `create` writes one if there is none of its name, so that of two writers one wins.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Protocol

from tsa.errors import RegistryError
from tsa.files.outputs import URL
from tsa.optional_libraries import imported
from tsa.system_errors import naming

NAME = "registry.json"
SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
"""Error codes of requests whose time differs too much from the server's."""


class Storage(Protocol):
    """Objects by name. Names have parts separated by `/`."""

    @property
    def url(self) -> str:
        """Where it is, for messages; without credentials."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object completely, or not at all.

        Returns:
            False if there is an object of this name; it is not changed.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Sorted names of the objects that begin with `prefix`, which ends in `/`."""
        ...


class FolderStorage:
    """Files of a folder. Several machines may share it if its file system has hard links, as NFS has."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """As `Storage`."""
        return str(self.root)

    def create(self, name: str, data: bytes) -> bool:
        """As `Storage`. The file is written under a hidden name, and linked: a link is never made over a file."""
        path = self.root / name
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def read(self, name: str) -> bytes | None:
        """As `Storage`."""
        path = self.root / name
        with naming(path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def names(self, prefix: str) -> list[str]:
        """As `Storage`. Hidden files are ignored."""
        folder = self.root / prefix
        with naming(folder):
            files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return sorted(path.relative_to(self.root).as_posix() for path in files)


class S3Storage:
    """Objects of a bucket, with boto3. Credentials come from its usual places: environment, files, instance role."""

    def __init__(self, bucket: str, prefix: str = "", *, client: Any = None) -> None:
        """Open a prefix of a bucket.

        Args:
            client: A boto3 client for S3; None for one with the usual settings.
        """
        self.bucket, self.prefix = bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = (
            imported("a registry in s3://", "boto3", "s3").Session().client("s3") if client is None else client
        )

    @property
    def url(self) -> str:
        """As `Storage`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def create(self, name: str, data: bytes) -> bool:
        """As `Storage`. S3 writes the object only if there is none (`If-None-Match`)."""
        try:
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data, IfNoneMatch="*")
        except self._errors() as error:
            if _status(error) in (409, 412):
                return False
            raise self._failed(error) from error
        return True

    def read(self, name: str) -> bytes | None:
        """As `Storage`."""
        try:
            content: bytes = self._client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except self._errors() as error:
            if _code(error) == "NoSuchKey":
                return None
            raise self._failed(error) from error
        return content

    def names(self, prefix: str) -> list[str]:
        """As `Storage`."""
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        except self._errors() as error:
            raise self._failed(error) from error
        return sorted(key.removeprefix(self.prefix) for key in keys)

    @staticmethod
    def _errors() -> tuple[type[Exception], ...]:
        from botocore.exceptions import BotoCoreError, ClientError

        return BotoCoreError, ClientError

    def _failed(self, error: Exception) -> RegistryError:
        return RegistryError(f"{self.url} cannot be reached: {error}; {advice(error, 'the bucket')}")


def advice(error: Exception, first: str) -> str:
    """What to check after an error of boto3, the clock if its signature was too old or too new."""
    if _code(error) in SKEWED:
        return "set the clock of this machine right: its time differs too much from that of the server"
    return f"check {first}, the network and the credentials"


def open_storage(url: str) -> Storage:
    """Open the storage at a URL.

    Args:
        url: A folder, `file:///FOLDER` or `s3://BUCKET/PREFIX`.

    Raises:
        RegistryError: For any other URL.
        ConfigError: If a library is missing.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        if URL.match(url):
            raise RegistryError(_must_be(url))
        return FolderStorage(Path(url))
    if scheme == "file" and rest.startswith("/"):
        return FolderStorage(Path(rest))
    if scheme == "s3" and rest.partition("/")[0]:
        bucket, _, prefix = rest.partition("/")
        return S3Storage(bucket, prefix)
    raise RegistryError(_must_be(url))


def _must_be(url: str) -> str:
    forms = "a folder, file:///FOLDER, s3://BUCKET/PREFIX, mlflow://HOST:PORT/NAME or sagemaker://GROUP"
    return f"a registry must be {forms} (got {url!r})"


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _status(error: Exception) -> int:
    return int(getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
