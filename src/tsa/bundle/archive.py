"""Read and write a bundle's files as a folder or one `.tar.gz`, in memory and atomically.

`opened` gives a `BundleSource`: read `head()` (manifest, signature) first, then `files()` with the sizes from the
manifest. Archives are never unpacked to disk, and the unpacked size is limited.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from tsa.bundle.manifest import FILES, GRAPHS, HEAD, MANIFEST, OPTIONAL, SIGNATURE, TREES, WEIGHTS, Contents
from tsa.bundle.tar_stream import Tape
from tsa.errors import BundleError
from tsa.files.outputs import check_file
from tsa.files.platform_files import is_marker
from tsa.files.writing import atomic_file, atomic_folder

ENDS = (".tar.gz", ".tgz")
KNOWN = {*FILES, *OPTIONAL, MANIFEST, SIGNATURE}
MAX_BYTES, MAX_TEXT, MAX_HEAD = 4 * 2**30, 256 * 2**20, 2**20
"""Maximum size of all files together, of a text file, and of the manifest or the signature."""

Sizes = Mapping[str, int]
"""Bytes by name."""


class BundleSource(Protocol):
    """A place that a bundle's files can be read from."""

    def head(self) -> dict[str, bytes]:
        """The manifest, and the signature if there is one."""
        ...

    def files(self, sizes: Sizes) -> dict[str, bytes]:
        """The files of these names.

        Raises:
            BundleError: Before a file is read that has another size, is missing or is not listed.
        """
        ...


def is_archive(path: Path) -> bool:
    """Whether `path` names an archive, not a folder."""
    return path.name.endswith(ENDS)


@contextmanager
def opened(path: Path) -> Iterator[BundleSource]:
    """Open the folder or archive at `path`.

    Raises:
        BundleError: If it cannot be read, here or inside the block.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                yield Archive(path, file)
        else:
            yield Folder(path)
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        raise BundleError(_why_no_bundle(path, error)) from None


def _why_no_bundle(path: Path, error: Exception) -> str:
    """Why nothing at a path can be read as a bundle, and what to do."""
    if not path.exists() and not path.is_symlink():
        return f"{path} is not a bundle: no such folder or file; give a bundle, such as RUN/bundle"
    if (path / "bundle" / MANIFEST).is_file():
        return f"{path} is not a bundle; did you mean {path / 'bundle'}?"
    if isinstance(error, gzip.BadGzipFile) and not is_archive(path):
        return f"{path} is not a bundle: a bundle is a folder or a .tar.gz file; give one, such as RUN/bundle"
    if path.is_dir() and not (path / MANIFEST).exists():
        return f"{path} is not a bundle: the folder has no {MANIFEST}; give a bundle, such as RUN/bundle"
    return f"{path} cannot be read ({error}): it is not a bundle, or it is damaged"


class Folder:
    """The files of a folder. Links inside the folder count as files, since Kubernetes mounts use them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def head(self) -> dict[str, bytes]:
        """As `BundleSource`."""
        if not (self._path / MANIFEST).is_file():
            raise FileNotFoundError(f"there is no {MANIFEST}")
        names = [name for name in HEAD if os.path.lexists(self._path / name)]
        return {name: self._read(name, self._size(name)) for name in names}

    def files(self, sizes: Sizes) -> dict[str, bytes]:
        """As `BundleSource`."""
        names = sorted(path.name for path in self._path.iterdir() if not is_marker(path.name))
        present = {name: self._size(name) for name in names if name not in HEAD}
        _refuse_unlisted(present, sizes, str(self._path))
        return {name: self._read(name, size) for name, size in present.items()}

    def _size(self, name: str) -> int:
        file = self._path / name
        if name not in KNOWN:
            raise BundleError(f"{file} does not belong to the bundle")
        real, root = Path(os.path.realpath(file)), Path(os.path.realpath(self._path))
        if not real.is_file() or (file.is_symlink() and (not real.is_relative_to(root) or _is_sibling(real, root))):
            raise BundleError(f"{file} must be a regular file (got a folder or a link)")
        size = real.stat().st_size
        _refuse_large(str(file), name, size)
        return size

    def _read(self, name: str, size: int) -> bytes:
        with (self._path / name).open("rb") as file:
            return file.read(size + 1)  # a file that grows meanwhile is detected by its hash


class Archive:
    """The files of an archive, at its top or in one folder, written by `to_tar_gz`, `tar` or Python's `tarfile`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file

    def head(self) -> dict[str, bytes]:
        """As `BundleSource`. Data before them is unpacked and discarded."""
        contents: dict[str, bytes] = {}
        for name, size, tape in self._members():
            if name in HEAD:
                contents[name] = tape.read(size)
            if len(contents) == len(HEAD):
                break
        if MANIFEST not in contents:
            raise BundleError(f"{self._path}/{MANIFEST} is missing: {self._path} is not a bundle")
        return contents

    def files(self, sizes: Sizes) -> dict[str, bytes]:
        """As `BundleSource`. Reads to the end of the archive, so that its checksum is verified."""
        contents: dict[str, bytes] = {}
        there: dict[str, int] = {}
        for name, size, tape in self._members():
            if name not in HEAD:
                _refuse_size(name, size, sizes, str(self._path))
                there[name] = size
                contents[name] = tape.read(size)
        _refuse_unlisted(there, sizes, str(self._path))
        return contents

    def _members(self) -> Iterator[tuple[str, int, Tape]]:
        """Yield name and size of each file; read its bytes from the tape, or they are skipped."""
        self._file.seek(0)
        seen, total, base = set[str](), 0, None
        with gzip.GzipFile(fileobj=self._file) as unpacked:
            tape = Tape(cast(BinaryIO, unpacked), os.fstat(self._file.fileno()).st_size, str(self._path), KNOWN)
            for folder, name, size in tape:
                where = f"{self._path}/{name if name.isprintable() else ascii(name)}"
                if name not in KNOWN or (base is not None and folder != base):
                    raise BundleError(f"{where} does not belong to the bundle")
                if name in seen:
                    raise BundleError(f"{where} must be a regular file that occurs once")
                base = folder
                total += size
                _refuse_large(where, name, size, total)
                seen.add(name)
                yield name, size, tape


def write_contents(contents: Contents, path: Path) -> None:
    """Write files as the folder or the archive `path`, replacing a bundle that exists there.

    The same files give a byte-identical archive.

    Raises:
        ConfigError: If something other than a bundle exists there; nothing is written.
    """
    if is_archive(path):
        check_file(path, "a bundle", _is_bundle)
        with atomic_file(path) as temporary:
            temporary.write_bytes(to_tar_gz(contents))
        return
    with atomic_folder(path, MANIFEST) as folder:
        for name, data in contents.items():
            (folder / name).write_bytes(data)


def to_tar_gz(contents: Contents) -> bytes:
    """The bytes of an archive: manifest and signature first, then members by name, without times or owners."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(contents, key=lambda name: (name not in HEAD, name)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(contents[name]), 0o644
            archive.addfile(member, io.BytesIO(contents[name]))
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)


def _is_sibling(real: Path, root: Path) -> bool:
    """Whether a link points to another file of the bundle."""
    return real.parent == root


def _refuse_size(name: str, size: int, sizes: Sizes, where: str) -> None:
    if name not in sizes:
        raise BundleError(f"{where}/{name} does not belong to the bundle")
    if size != sizes[name]:
        rule = f"its size is not the one in the manifest ({size:,} bytes, and {sizes[name]:,})"
        raise BundleError(f"{where}/{name} was changed: {rule}")


def _refuse_unlisted(present: Sizes, sizes: Sizes, where: str) -> None:
    """Raise BundleError unless these are the listed files with the listed sizes."""
    for name, size in present.items():
        _refuse_size(name, size, sizes, where)
    for name in sizes:
        if name not in present:
            raise BundleError(f"{where}/{name} is missing")
    _refuse_large(where, WEIGHTS, 0, sum(present.values()))


def _refuse_large(where: str, name: str, size: int, total: int = 0) -> None:
    limit = MAX_BYTES if name in (WEIGHTS, TREES, *GRAPHS.values()) else MAX_HEAD if name in HEAD else MAX_TEXT
    limit = min(limit, MAX_BYTES)
    if size > limit or total > MAX_BYTES:
        rule = f"must have at most {limit:,} bytes, and all files {MAX_BYTES:,}"
        raise BundleError(f"{where} {rule} (got {size:,} of {max(size, total):,})")


def _is_bundle(path: Path) -> bool:
    """Whether a file begins like the archive of a bundle."""
    with path.open("rb") as file:
        try:
            return next(Archive(path, file)._members(), None) is not None
        except BundleError:
            return False
