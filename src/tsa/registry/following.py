"""`AliasFollower`: a local copy of the bundle that an alias of a registry names, for a server that follows the alias."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from tsa.bundle.archive import to_tar_gz
from tsa.bundle.manifest import sha256
from tsa.errors import RegistryError
from tsa.files.writing import atomic_file
from tsa.registry.registry import Registry

CURRENT = "current.tar.gz"
MAX_COPIES = 3
"""Bundles that stay in the folder: the current one and those before it, which another worker may be reading."""


class AliasFollower:
    """Copies bundles from a registry into a folder, with a link to the current one.

    Several processes may use one folder: files and links are replaced in one step.
    """

    def __init__(self, name: str, cache: Path, setting: str = "bundle_from") -> None:
        """Follow an alias. Nothing is read yet.

        Args:
            name: REGISTRY@ALIAS, such as s3://models/cards@champion.
            cache: The folder for the copies; those of other registries and aliases may be there too.
            setting: What `name` is the value of, for messages.

        Raises:
            RegistryError: If `name` is not of this form.
        """
        self.url, separator, self.alias = name.rpartition("@")
        if not (separator and self.url and self.alias):
            raise RegistryError(f"{setting} must be REGISTRY@ALIAS, such as s3://models/cards@champion (got {name!r})")
        self.folder = cache / sha256(name.encode())[:16]
        self._registry: Registry | None = None

    @property
    def path(self) -> Path:
        """The link to the current bundle."""
        return self.folder / CURRENT

    def refresh(self) -> bool:
        """Copy the bundle that the alias names now, unless it is the current one.

        Returns:
            Whether the link leads to another bundle now.

        Raises:
            RegistryError: If the registry cannot be reached, or has no such alias.
            BundleError: If the bundle was changed, or is not signed as the registry demands.
        """
        if self._registry is None:
            self._registry = Registry.open(self.url)
        entry = self._registry.current(self.alias)
        copy = self.folder / f"{entry.sha256}.tar.gz"
        if copy.exists() and os.path.realpath(self.path) == os.path.realpath(copy):
            return False
        if not copy.exists():
            data = to_tar_gz(self._registry.contents(self._registry.version(entry.sha256)))
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_file(copy, private=True) as temporary:
                temporary.write_bytes(data)
        link = self.folder / f".{CURRENT}.{secrets.token_hex(4)}.tmp"
        link.symlink_to(copy.name)
        os.replace(link, self.path)
        self._remove_old(copy)
        return True

    def _remove_old(self, current: Path) -> None:
        copies = [path for path in self.folder.glob("*.tar.gz") if not path.is_symlink() and path != current]
        with suppress(OSError):  # another process removes the same
            copies.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in copies[MAX_COPIES - 1 :]:
                path.unlink()
