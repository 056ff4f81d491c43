"""A bundle's files as a folder or as one `.tar.gz`: read into memory whole, written whole or not at all.

Of an archive only plain files at its top are taken, one header at a time: nothing is ever unpacked to disk, and what it
unpacks to is counted, not believed. It does not know what the files hold.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tsa.data.files import replaced_file, replaced_folder
from tsa.errors import BundleError, ConfigError
from tsa.scoring.manifest import FILES, GRAPHS, MANIFEST, OPTIONAL, SIGNATURE, WEIGHTS, Contents

ENDS = (".tar.gz", ".tgz")
KNOWN = {*FILES, *OPTIONAL, MANIFEST, SIGNATURE}
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
MOST_BYTES, MOST_TEXT = 4 * 2**30, 256 * 2**20
"""Of all files together, and of one that holds text."""
MOST_AFTER = 2**20
"""Of zeros after the last file; tar writes 10 kB at most."""


def is_archive(path: Path) -> bool:
    """Whether a bundle at `path` is, or is to be, an archive."""
    return path.name.endswith(ENDS)


def read_contents(path: Path) -> dict[str, bytes]:
    """The files of the bundle at `path` by name. BundleError where it is none, or holds what a bundle cannot hold."""
    try:
        return dict(_members(path)) if path.is_file() else dict(_files(path))
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        hint = f"; did you mean {path / 'bundle'}?" if (path / "bundle" / MANIFEST).is_file() else ""
        raise BundleError(f"{path} cannot be read ({error}): {path} is not a bundle{hint}") from None


def write_contents(contents: Contents, path: Path) -> None:
    """Write files as the folder or the archive `path`; a bundle that stands there is replaced.

    The same files give the same archive, to the byte. ConfigError, and nothing is written, where something else stands.
    """
    if is_archive(path):
        _refuse_foreign(path)
        with replaced_file(path) as aside:
            aside.write_bytes(packed(contents))
        return
    with replaced_folder(path, MANIFEST) as folder:
        for name, data in contents.items():
            (folder / name).write_bytes(data)


def packed(contents: Contents) -> bytes:
    """The bytes of an archive: members by name, without times or owners."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(contents):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(contents[name]), 0o644
            archive.addfile(member, io.BytesIO(contents[name]))
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"there is no {MANIFEST}")
    total = 0
    for file in sorted(folder.iterdir()):
        if file.name not in KNOWN:
            raise BundleError(f"{file} does not belong to the bundle")
        if not file.is_file() or file.is_symlink():
            raise BundleError(f"{file} must be a plain file, however: it is a folder or a link")
        total += (size := file.stat().st_size)
        _refuse_large(str(file), file.name, size, total)
        yield file.name, file.read_bytes()


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The members of an archive; the end is reached only if it is sound to the checksum after its last byte."""
    seen, total = set[str](), 0
    with gzip.open(path) as opened:
        file = cast(BinaryIO, opened)
        while (member := _header(file)) is not None:
            name = member.name
            where = f"{path}/{name if name.isprintable() else ascii(name)}"
            if name not in KNOWN:
                raise BundleError(f"{where} does not belong to the bundle")
            if member.type not in PLAIN or name in seen or member.size < 0:
                raise BundleError(f"{where} must be a plain file and stand there once, however: it does not")
            total += member.size
            _refuse_large(where, name, member.size, total)
            seen.add(name)
            yield name, _exactly(file, member.size)
            _exactly(file, -member.size % tarfile.BLOCKSIZE)
        rest = file.read(MOST_AFTER + 1)
        if len(rest) > MOST_AFTER or rest.strip(b"\0"):
            raise BundleError(f"{path} must end after its last file, however: more stands there")


def _header(file: BinaryIO) -> tarfile.TarInfo | None:
    """The next header; None at the end. Headers that extend another one are no plain files, and are refused as such."""
    block = _exactly(file, tarfile.BLOCKSIZE)
    return tarfile.TarInfo.frombuf(block, "utf-8", "replace") if any(block) else None


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError("it ends too early")
    return data


def _refuse_large(where: str, name: str, size: int, total: int) -> None:
    most = MOST_BYTES if name in (WEIGHTS, *GRAPHS.values()) else min(MOST_TEXT, MOST_BYTES)
    if size > most or total > MOST_BYTES:
        rule = f"must have at most {most:,} bytes, and all files {MOST_BYTES:,}"
        raise BundleError(f"{where} {rule}, however: {size:,} of {total:,}")


def _refuse_foreign(path: Path) -> None:
    """ConfigError where a file stands at `path` that does not begin as an archive of a bundle does."""
    if not path.exists():
        return
    try:
        next(_members(path))
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, StopIteration, BundleError):
        raise ConfigError(f"{path} must be a bundle to be replaced, however: another file stands there") from None
