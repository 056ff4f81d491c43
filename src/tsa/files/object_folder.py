"""A folder of an object storage: `s3://BUCKET/FOLDER` or `gs://BUCKET/FOLDER`, read and written with PyArrow.

Credentials come from the usual places of the storage (environment, files, role of the machine), never from the URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsa.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEME = re.compile(r"(s3|gs):/{1,2}")
"""How the URL of an object begins; with one `/` after it was made a path."""
PLACE = re.compile(r"([a-z0-9][a-z0-9._-]*[a-z0-9])/([^@?#\\]+)")
PIECE_BYTES = 8 * 2**20
MAX_SMALL_BYTES = 64 * 2**20
CONNECT_SECONDS, REQUEST_SECONDS = 10.0, 60.0


def object_url(name: object) -> str | None:
    """The URL of a folder of an object storage, without a `/` at its end; None for a name of another kind.

    A path made of a URL is recognised: `Path("s3://bucket/folder")`.

    Raises:
        ConfigError: If it has no bucket or folder, or a password.
    """
    match = SCHEME.match(str(name))
    if match is None:
        return None
    place = str(name)[match.end() :].strip("/")
    if PLACE.fullmatch(place) is None:
        forms = "s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, without '@', '?' and '#'"
        raise ConfigError(
            f"a URL of objects must be {forms} (got another form after {match[1]}://): "
            "give credentials in the environment"
        )
    return f"{match[1]}://{place}"


class ObjectFolder:
    """The objects of a folder, by name. An object appears when all of it is written."""

    def __init__(self, url: str, file_system: FileSystem) -> None:
        self.url = url
        self._system, self._root = file_system, url.partition("://")[2]

    @classmethod
    def open(cls, url: str) -> ObjectFolder:
        """Open the folder at a URL. The storage is first asked when objects are read.

        Args:
            url: As `object_url` returns it.

        Raises:
            StoreError: If there is no such bucket, or PyArrow has no such storage on this machine.
        """
        try:
            with _errors(url):
                return cls(url, _google_storage() if url.startswith("gs://") else _s3(url))
        except ImportError as error:
            raise StoreError(f"{url} cannot be opened: {error}; install a PyArrow that has this storage") from error

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None if there is none. Raises StoreError."""
        with _errors(self.url):
            try:
                with self._system.open_input_file(self._path(name)) as file:
                    content: bytes = file.read(MAX_SMALL_BYTES + 1)
            except FileNotFoundError:
                return None
        if len(content) > MAX_SMALL_BYTES:
            raise StoreError(f"{self.url}/{name} must have at most {MAX_SMALL_BYTES} bytes; see whether it was changed")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small object. Raises StoreError."""
        with _errors(self.url), self._system.open_output_stream(self._path(name)) as stream:
            stream.write(content)

    def sizes(self) -> dict[str, int | None]:
        """Bytes of each object of the folder by name; None for a folder in it. Raises StoreError."""
        from pyarrow import fs

        with _errors(self.url):
            listed = self._system.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return {info.base_name: info.size if info.is_file else None for info in listed}

    def upload(self, path: Path, name: str) -> None:
        """Write a file as an object, in pieces. Raises StoreError."""
        with _errors(self.url), path.open("rb") as file, self._system.open_output_stream(self._path(name)) as stream:
            while piece := file.read(PIECE_BYTES):
                stream.write(piece)

    def download(self, name: str, path: Path, size: int, taken: Callable[[bytes], None]) -> None:
        """Append an object's bytes to a file, from the file's length on.

        Args:
            name: The object.
            path: The file, which may have the first bytes already.
            size: The bytes that the object must have.
            taken: Called with each piece that is appended.

        Raises:
            StoreError: If the object is missing or has another size, or the storage does not answer.
        """
        with _errors(self.url), path.open("ab") as file, self._system.open_input_file(self._path(name)) as source:
            if source.size() != size:
                raise StoreError(f"{self.url}/{name} must have {size} bytes (got {source.size()}); upload it again")
            source.seek(file.tell())
            while piece := source.read(PIECE_BYTES):
                file.write(piece)
                taken(piece)

    def delete(self, names: list[str]) -> None:
        """Delete objects. Raises StoreError."""
        for name in names:
            with _errors(self.url):
                self._system.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Turn errors of the storage into StoreError. Those of files on this machine have a name or a number, and remain."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename is not None:
            raise
        raise StoreError(f"{url} lacks an object: {error}; upload the store again") from error
    except OSError as error:
        if error.filename is not None or error.errno is not None:
            raise
        raise StoreError(
            f"{url} cannot be reached: {error}; check the bucket, the network and the credentials"
        ) from error


def _s3(url: str) -> FileSystem:
    """With time limits, and where the bucket is: PyArrow does not follow the variables and redirects that boto3 follows."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    limits: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "request_timeout": REQUEST_SECONDS}
    limits["retry_strategy"] = AwsStandardS3RetryStrategy(max_attempts=4)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        return S3FileSystem(endpoint_override=endpoint, region=region or "us-east-1", **limits)
    return S3FileSystem(region=region or resolve_s3_region(url.partition("://")[2].partition("/")[0]), **limits)


def _google_storage() -> FileSystem:
    from pyarrow.fs import GcsFileSystem

    return GcsFileSystem(retry_time_limit=timedelta(seconds=REQUEST_SECONDS))
