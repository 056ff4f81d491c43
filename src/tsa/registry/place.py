"""What holds a registry: `RegistryPlace`, and the one made of objects of a storage, `ObjectPlace`.

    registry.json                   what the registry demands: the public key that bundles must be signed with
    versions/SHA256/bundle.tar.gz   the bundle, without its signature
    versions/SHA256/signature.json  its signature, if it is signed
    versions/SHA256/version.json    what is known of it; written last, so a version is complete if it has this
    aliases/NAME/00000001.json      the moves of an alias, numbered

No object is ever changed. Of two promotions at the same time one writes the next number, and the other fails.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tsa.bundle.manifest import SIGNATURE, sha256
from tsa.bundle.signing import read_bundle, signer_of
from tsa.errors import BundleError, RegistryError
from tsa.registry.records import AliasEntry, Version, entry_from, to_bytes, version_from
from tsa.registry.storage import NAME, Storage


class RegistryPlace(Protocol):
    """Versions and moves of aliases. All that is written is written completely, or not at all."""

    @property
    def url(self) -> str:
        """Where it is, for messages; without credentials."""
        ...

    def settings(self) -> bytes | None:
        """What the registry demands, as JSON; None if there is no registry yet."""
        ...

    def create(self, settings: bytes) -> bool:
        """Make a registry. Returns False if there is one."""
        ...

    def add(self, version: Version, archive: bytes, signature: bytes | None) -> None:
        """Add a version, unless it is there; add its signature, unless it has one."""
        ...

    def shas(self) -> list[str]:
        """The sha256 of each complete version."""
        ...

    def version(self, sha: str) -> Version | None:
        """The version with this complete sha256; None if there is none."""
        ...

    def archive(self, sha: str) -> bytes | None:
        """The bundle of a version as .tar.gz, without its signature; None if it is missing."""
        ...

    def signature(self, sha: str) -> bytes | None:
        """The signature of a version; None if it has none."""
        ...

    def alias_names(self) -> list[str]:
        """The names of all aliases, sorted."""
        ...

    def entries(self, alias: str) -> list[AliasEntry]:
        """All moves of an alias, the first one first."""
        ...

    def current(self, alias: str) -> AliasEntry | None:
        """The last move of an alias; None if there is no such alias."""
        ...

    def append(self, entry: AliasEntry) -> AliasEntry:
        """Write the next move of an alias.

        Returns:
            The move with this number: `entry`, or what somebody else wrote first.
        """
        ...


class ObjectPlace:
    """A registry in a folder or under a prefix of a bucket."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def url(self) -> str:
        """As `RegistryPlace`."""
        return self.storage.url

    def settings(self) -> bytes | None:
        """As `RegistryPlace`."""
        return self.storage.read(NAME)

    def create(self, settings: bytes) -> bool:
        """As `RegistryPlace`."""
        return self.storage.create(NAME, settings)

    def add(self, version: Version, archive: bytes, signature: bytes | None) -> None:
        """As `RegistryPlace`. Its record is written last."""
        folder = f"versions/{version.sha256}"
        if not self.storage.create(f"{folder}/bundle.tar.gz", archive):
            # another version of zlib may have packed the same files into other bytes
            archive = self.archive(version.sha256) or b""
        version = replace(version, archive_sha256=sha256(archive))
        if signature is not None:
            self.storage.create(f"{folder}/{SIGNATURE}", signature)
        verified_contents(version, archive, f"{self.url}/{folder}")
        self.storage.create(f"{folder}/version.json", to_bytes(version))

    def shas(self) -> list[str]:
        """As `RegistryPlace`."""
        return [name.split("/")[1] for name in self.storage.names("versions/") if name.endswith("/version.json")]

    def version(self, sha: str) -> Version | None:
        """As `RegistryPlace`."""
        name = f"versions/{sha}/version.json"
        data = self.storage.read(name)
        return None if data is None else signed(version_from(data, f"{self.url}/{name}"), self.signature(sha))

    def archive(self, sha: str) -> bytes | None:
        """As `RegistryPlace`."""
        return self.storage.read(f"versions/{sha}/bundle.tar.gz")

    def signature(self, sha: str) -> bytes | None:
        """As `RegistryPlace`."""
        return self.storage.read(f"versions/{sha}/{SIGNATURE}")

    def alias_names(self) -> list[str]:
        """As `RegistryPlace`."""
        return sorted(self._numbers())

    def entries(self, alias: str) -> list[AliasEntry]:
        """As `RegistryPlace`."""
        return [self._entry(alias, number) for number in self._numbers(alias).get(alias, [])]

    def current(self, alias: str) -> AliasEntry | None:
        """As `RegistryPlace`."""
        numbers = self._numbers(alias).get(alias)
        return self._entry(alias, numbers[-1]) if numbers else None

    def append(self, entry: AliasEntry) -> AliasEntry:
        """As `RegistryPlace`."""
        if self.storage.create(_entry_name(entry.alias, entry.number), to_bytes(entry)):
            return entry
        return self._entry(entry.alias, entry.number)

    def _entry(self, alias: str, number: int) -> AliasEntry:
        name = _entry_name(alias, number)
        data = self.storage.read(name)
        if data is None:
            raise RegistryError(f"{self.url}/{name} is missing; entries of an alias must never be removed")
        return entry_from(data, f"{self.url}/{name}")

    def _numbers(self, alias: str | None = None) -> dict[str, list[int]]:
        """The numbers of the entries, in order, by alias. Other files are ignored."""
        numbers: dict[str, list[int]] = {}
        for name in self.storage.names("aliases/" if alias is None else f"aliases/{alias}/"):
            if match := re.fullmatch(r"aliases/([^/]+)/([0-9]{8})\.json", name):
                numbers.setdefault(match[1], []).append(int(match[2]))
        return numbers


def signed(version: Version, signature: bytes | None) -> Version:
    """The version with the id of the key that signed it."""
    return replace(version, signed_by=None if signature is None else signer_of({SIGNATURE: signature}))


def verified_contents(version: Version, archive: bytes | None, where: str) -> dict[str, bytes]:
    """The files of a version's bundle.

    Raises:
        BundleError: If the bundle was changed.
        RegistryError: If it is missing.
    """
    if archive is None:
        raise RegistryError(f"{where}/bundle.tar.gz is missing; publish the bundle again")
    if sha256(archive) != version.archive_sha256:
        raise BundleError(f"{where}/bundle.tar.gz was changed: its sha256 is not the one in version.json")
    with tempfile.TemporaryDirectory(prefix="tsa-registry-") as temporary:
        path = Path(temporary) / "bundle.tar.gz"
        path.write_bytes(archive)
        contents, manifest = read_bundle(path)
    if manifest["sha256"] != version.sha256:
        raise BundleError(f"{where}/bundle.tar.gz was changed: it is the bundle {manifest['sha256'][:12]}")
    return contents


def _entry_name(alias: str, number: int) -> str:
    return f"aliases/{alias}/{number:08}.json"
