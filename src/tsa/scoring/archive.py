"""A bundle's files as a folder or as one `.tar.gz`: read into memory whole, written whole or not at all.

Of an archive only plain files at its top are taken: nothing is ever unpacked to disk. It does not know what the files hold.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tsa.data.files import replaced_file, replaced_folder
from tsa.errors import BundleError
from tsa.scoring.manifest import FILES, MANIFEST, OPTIONAL, SIGNATURE, Contents

ENDS = (".tar.gz", ".tgz")
MOST_BYTES = 4 * 2**30
"""Of all files together: what an archive unpacks to is not believed but counted."""
KNOWN = {*FILES, *OPTIONAL, MANIFEST, SIGNATURE}


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

    The same files give the same archive, to the byte.
    """
    if is_archive(path):
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
    for file in sorted(folder.iterdir()):
        if file.name not in KNOWN:
            raise BundleError(f"{file} does not belong to the bundle")
        if not file.is_file() or file.is_symlink():
            raise BundleError(f"{file} must be a plain file, however: it is a folder or a link")
        yield file.name, file.read_bytes()


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    seen = set[str]()
    with tarfile.open(fileobj=io.BytesIO(_unzipped(path)), mode="r:") as archive:
        for member in archive:
            if member.name not in KNOWN:
                raise BundleError(f"{path}/{member.name} does not belong to the bundle")
            if not member.isreg() or member.issparse() or member.name in seen:
                raise BundleError(
                    f"{path}/{member.name} must be a plain file and stand there once, however: it does not"
                )
            file = archive.extractfile(member)
            assert file is not None
            seen.add(member.name)
            yield member.name, file.read()


def _unzipped(path: Path) -> bytes:
    """All of it, to the checksum at its end."""
    with gzip.open(path) as file:
        data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BundleError(f"{path} must unpack to at most {MOST_BYTES:,} bytes, however: it has more")
        file.read()
    return data
