"""Stores in an object storage: fetched into a local cache to be read, and uploaded with the manifest last.

The objects are those of a store's folder, so a folder may also be copied with the storage's own tools, manifest last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tsa.data.log.paths import kind_of
from tsa.data.store.manifest import KIND, MANIFEST
from tsa.errors import ConfigError, DataError, StoreError
from tsa.files.cache import Cache
from tsa.files.object_folder import ObjectFolder, object_url
from tsa.files.writing import PRIVATE, atomic_folder

logger = logging.getLogger(__name__)

PENDING = "manifest.json.uploading"
"""The manifest of what is being uploaded. An object that is there has its content, since it was written after this one."""
PART = ".part"
"""Ending of a file that is not complete."""
THREADS = 4
POLL_SECONDS = 0.2
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@contextmanager
def new_store(out: str | Path) -> Iterator[Path]:
    """Yield an empty folder. What is written there becomes the store `out`, a folder or a URL, if the block has no error.

    Raises:
        ConfigError: If `out` has other content.
        StoreError: If the storage cannot be reached.
    """
    url = object_url(out)
    if url is None:
        with atomic_folder(Path(out), MANIFEST, private=True) as folder:
            yield folder
        return
    there, cache = ObjectFolder.open(url), Cache.from_environment()
    check_replaceable(there)
    cache.root.mkdir(0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cache.root) as name:
        folder = Path(name) / "store"
        folder.mkdir(0o700)
        yield folder
        upload(folder, url)
        key = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
        with cache.filling(key) as place:
            if place is not None and not (place / MANIFEST).is_file():  # it need not be fetched: it is here
                for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
                    os.replace(path, place / path.name)


def is_store(name: str | Path) -> bool:
    """Whether a name is that of a store, not of a log: a folder with a manifest, or a URL of objects that is no file."""
    try:
        kind_of(str(name))
    except DataError:
        return object_url(name) is not None or (Path(name) / MANIFEST).is_file()
    return (Path(name) / MANIFEST).is_file()


def manifest_sha256(store: str | Path) -> str:
    """Hex sha256 of the manifest of a store at a path or a URL. Raises StoreError if there is none."""
    url = object_url(store)
    if url is not None:
        return hashlib.sha256(_manifest_at(ObjectFolder.open(url))).hexdigest()
    path = Path(store) / MANIFEST
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def fetch(url: str) -> Path:
    """The folder of a local copy of the store at `url`. Only what the cache lacks is read, and all that is read is checked.

    A process that is killed has its bytes in the cache, and the next one continues. Several processes may fetch one store.

    Raises:
        StoreError: If there is no store, it does not match its manifest, there is no space, or no answer.
    """
    there, cache = ObjectFolder.open(url), Cache.from_environment()
    content = _manifest_at(there)
    manifest, key = _checked(content, url), hashlib.sha256(content).hexdigest()
    while (place := cache.use(key, MANIFEST)) is None:
        with cache.filling(key) as folder:
            if folder is None:
                time.sleep(POLL_SECONDS)
            elif not (folder / MANIFEST).is_file():
                _fill(folder, there, manifest["files"], cache, key)
                _write_private(folder / MANIFEST, content)
    return place


def upload(folder: Path, url: str) -> None:
    """Write the store in `folder` to `url`, in place of a store that is there. An upload that was killed is continued.

    The manifest there is removed first and written last: a reader finds no store, and never a mixture of two.

    Raises:
        ConfigError: If `url` has other content.
        StoreError: If the storage cannot be reached.
    """
    there, manifest = ObjectFolder.open(url), (folder / MANIFEST).read_bytes()
    check_replaceable(there)
    if there.read(PENDING) != manifest:
        if there.read(MANIFEST) == manifest:
            return
        old = [name for name, size in there.sizes().items() if size is not None]
        there.delete(sorted(old, key=lambda name: name != MANIFEST))
        there.write(PENDING, manifest)
    sizes, files = there.sizes(), json.loads(manifest)["files"]
    left = [name for name, entry in files.items() if sizes.get(name) != entry["bytes"]]
    logger.info("%s: %d of %d files to upload", url, len(left), len(files))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: there.upload(folder / name, name), left))
    there.write(MANIFEST, manifest)
    there.delete([PENDING])


def check_replaceable(there: ObjectFolder) -> None:
    """Raise ConfigError if a folder has objects, and no store."""
    sizes = there.sizes()
    names = set(sizes) - {""}
    if folders := sorted(name for name in names if sizes[name] is None):
        raise ConfigError(
            f"{there.url} must be empty or have a store (it has the folder {folders[0]}): use another one"
        )
    if names and not names & {MANIFEST, PENDING}:
        raise ConfigError(f"{there.url} must be empty or have a store (it has {min(names)}): use another folder")
    if MANIFEST in names and PENDING not in names:
        _checked(_manifest_at(there), there.url)


def _manifest_at(there: ObjectFolder) -> bytes:
    content = there.read(MANIFEST)
    if content is None:
        raise StoreError(f"{there.url}/{MANIFEST} is missing: there is no store, or its upload has not ended")
    return content


def _checked(content: bytes, url: str) -> dict[str, Any]:
    """The manifest of a store, whose files have plain names. Raises StoreError."""
    try:
        manifest = json.loads(content)
        entries = [(name, int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()]
        is_store = manifest["kind"] == KIND and all(
            FILE_NAME.fullmatch(name) and size >= 0 for name, size, _ in entries
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_store = False
    if not is_store:
        raise StoreError(f"{url}/{MANIFEST} must be the manifest of a store: use the URL of a store")
    return dict(manifest)


def _fill(folder: Path, there: ObjectFolder, files: Mapping[str, Any], cache: Cache, key: str) -> None:
    """Read the files that a copy lacks."""
    have = {path.name: path.stat().st_size for path in folder.iterdir()}
    left = [name for name, entry in files.items() if have.get(name) != entry["bytes"]]
    need = sum(files[name]["bytes"] - min(have.get(name + PART, 0), files[name]["bytes"]) for name in left)
    cache.make_space(key, need)
    logger.info("%s: %d bytes to fetch into %s", there.url, need, folder)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: _fetch_file(there, name, files[name], folder), left))


def _fetch_file(there: ObjectFolder, name: str, entry: Mapping[str, Any], folder: Path) -> None:
    """Read one file, from where an earlier process ended. It gets its name when its content is checked."""
    part, size = folder / f"{name}{PART}", int(entry["bytes"])
    part.touch(PRIVATE)
    if part.stat().st_size > size:
        os.truncate(part, 0)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    there.download(name, part, size, digest.update)
    if digest.hexdigest() != entry["sha256"]:
        part.unlink()
        raise StoreError(f"{there.url}/{name} was changed: its sha256 is not the one in the manifest")
    os.replace(part, folder / name)


def _write_private(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + PART)
    part.touch(PRIVATE)
    part.write_bytes(content)
    os.replace(part, path)
