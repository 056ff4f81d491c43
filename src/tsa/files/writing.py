"""Write files and folders atomically, and .npy files piece by piece.

Everything is written to a temporary name in the target's folder and renamed at the end. If the process is killed,
the target is unchanged and at most a hidden temporary file or folder remains.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError, TSAError
from tsa.files.atomic_exchange import exchange
from tsa.files.mounts import cannot_move, is_mount, replace_content
from tsa.files.outputs import check_folder, is_stream
from tsa.system_errors import naming
from tsa.text import brief, truncate_repr

PRIVATE = 0o600
"""Mode of a file with payments, or weights learned from them: only its owner may read and write it."""


@contextmanager
def atomic_file(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a path to write to. The file replaces `path` when the block ends without an error.

    A link stays as it is and its target is replaced. Into a device, a pipe or an open file of the process, such as /dev/null
    or /dev/stdout, the bytes are written.

    Args:
        private: Only the owner may read the file.

    Raises:
        ConfigError: For a folder, a block device, a socket, a mount point or a link to itself, which cannot be replaced,
            and for a pipe that nobody reads.
    """
    if is_stream(path):
        with _poured_into(path) as temporary:
            yield temporary
        return
    path = _followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path)
    try:
        with naming(path):
            if private:
                temporary.touch(PRIVATE)
            yield temporary
            if private:
                temporary.chmod(PRIVATE)
            _replace(temporary, path)
    finally:
        with suppress(OSError):  # do not hide why the block failed
            temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.EBUSY or is_mount(path):
            raise ConfigError(f"{path} must not be a mount point: mount its folder instead, and write there") from None
        raise


def need_suffix(name: str, path: Path, *suffixes: str) -> None:
    """Check that a file name has one of the suffixes; the format is not guessed from others. Devices and pipes are
    exempt.

    Raises:
        ConfigError: Names the option.
    """
    if path.suffix not in suffixes and not is_stream(path):
        raise ConfigError(f"{name} must end in {' or '.join(suffixes)} (got {path.name}); choose one of these endings")


@contextmanager
def _poured_into(path: Path) -> Iterator[Path]:
    """Yield a path to write to. Its bytes are copied into the device or pipe `path` when the block ends without an
    error.
    """
    with tempfile.TemporaryDirectory(prefix="tsa-out-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with temporary.open("rb") as made, open_stream(path, "wb") as stream:
            shutil.copyfileobj(made, stream)


def open_stream(path: Path, mode: Literal["ab", "wb"]) -> IO[bytes]:
    """Open a file, device or pipe to write to, unbuffered. Raises ConfigError for a pipe that nobody reads: it would block."""
    if path.is_fifo():
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            raise ConfigError(f"{path} must have a reader (it is a pipe that nobody reads); start the reader") from None
    return path.open(mode, buffering=0)


def _followed(path: Path) -> Path:
    """The file to write to: the target of a link, existing or not. Raises ConfigError if it is not a file."""
    if path.is_symlink() and os.path.islink(os.path.realpath(path)):
        raise ConfigError(f"{path} must be a file or not exist (it is a link to itself)")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} must be a file or not exist (it is a folder, a block device or a socket)")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically. Floats are exact; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, refuse: type[TSAError]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        refuse: Names the file, if it cannot be read, is not JSON, or is not an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise refuse(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise refuse(f"{path} cannot be read as JSON: {brief(error, 200)}") from error
    if not isinstance(value, dict):
        raise refuse(f"{path} must hold a JSON object (got {truncate_repr(value)})")
    return value


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file atomically."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(out: Path, marker: str, *, private: bool = False) -> Iterator[Path]:
    """Yield an empty folder. It becomes `out` when the block ends without an error, and is removed otherwise.

    An existing folder `out` is replaced if it is empty or contains the file `marker`, which shows that it was made
    this way; platform files do not count. If it cannot be renamed (a mount point), its content is replaced file by
    file, `marker` last.

    Args:
        private: Only the owner may read the files.

    Raises:
        ConfigError: For anything else at `out`, before anything is written.
    """
    _check_replaceable(out, marker)
    out.parent.mkdir(parents=True, exist_ok=True)
    stays = cannot_move(out)
    temporary = _temporary_path(out / out.name if stays else out)
    temporary.mkdir(0o700 if private else 0o777)
    try:
        with naming(out):
            yield temporary
            _check_replaceable(out, marker)  # check again: hours may have passed
            if private:
                _keep_private(temporary)
            if stays:
                replace_content(out, temporary, marker)
            else:
                _move(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _keep_private(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_dir():
            path.chmod(PRIVATE)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _check_replaceable(out: Path, marker: str) -> None:
    if out.is_symlink():
        raise ConfigError(f"{out} must be a folder or not exist (it is a link); give the link's target instead")
    check_folder(out, f"a {marker} to be replaced", marker)


def _move(folder: Path, out: Path) -> None:
    """Rename `folder` to `out`. A folder with files cannot be renamed over: the two change places, or, where the file system
    cannot do that, the old one is moved away first.
    """
    if not out.exists():
        os.replace(folder, out)
        return
    if exchange(folder, out):
        return
    old = _temporary_path(out)
    os.replace(out, old)
    try:
        os.replace(folder, out)
    except OSError:
        os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


class ArrayWriter:
    """Writes an .npy file of a known shape in pieces and hashes it while writing: bounded memory, no second read."""

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.shape = path, np.dtype(dtype).newbyteorder("<"), shape
        self._rows = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(cast(BinaryIO, self), header)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is None and self._rows != self.shape[0]:
            raise ValueError(f"{self.path.name} must get {self.shape[0]} rows (got {self._rows})")

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes. For internal use: callers use `append`."""
        self._file.write(data)
        self._hash.update(data)

    def append(self, piece: NDArray[Any]) -> None:
        """Append rows (m, ...). Their other axes are those of the shape."""
        if piece.shape[1:] != self.shape[1:]:
            raise ValueError(f"{self.path.name} takes rows of shape {self.shape[1:]} (got {piece.shape[1:]})")
        self._rows += len(piece)
        if piece.size:
            self.write(np.ascontiguousarray(piece, self.dtype).data.cast("B"))

    @property
    def entry(self) -> dict[str, Any]:
        """The manifest's entry for the file, once it is closed."""
        return {
            "bytes": self.path.stat().st_size,
            "sha256": self._hash.hexdigest(),
            "dtype": self.dtype.str,
            "shape": list(self.shape),
        }


def file_entry(path: Path) -> dict[str, Any]:
    """The manifest's entry for a file that is not an array."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
