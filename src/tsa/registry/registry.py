"""`Registry`: versions of a model's bundles, and aliases that name the one to use; `RegistryPlace` says where they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tsa.bundle.archive import to_tar_gz, write_contents
from tsa.bundle.bundle import Bundle
from tsa.bundle.manifest import SIGNATURE, sha256
from tsa.bundle.signing import read_bundle, refuse_unsigned
from tsa.errors import RegistryError
from tsa.registry.opening import open_place
from tsa.registry.place import RegistryPlace, verified_contents
from tsa.registry.records import Action, AliasEntry, Version
from tsa.registry.storage import NAME
from tsa.text import truncate_repr

FORMAT = 1
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")
HEX = re.compile(r"[0-9a-f]{6,64}")


class Registry:
    """The versions of one model. Any number of processes and machines may use it at the same time.

    Example:
        >>> registry = tsa.Registry.create("registry")
        >>> version = registry.publish("run/bundle", by="ann")
        >>> entry = registry.promote(version.sha256, "champion", by="ann", why="the first model")
        >>> registry.resolve("champion").sha256 == version.sha256
        True
    """

    def __init__(self, place: RegistryPlace, public_key: bytes | None = None) -> None:
        """Use a place; `open` does this from a URL.

        Args:
            public_key: PEM; bundles must be signed with its private key.
        """
        self.place, self.public_key = place, public_key

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a registry, or an empty place for a new one.

        Args:
            url: A folder, `file:///FOLDER`, `s3://BUCKET/PREFIX`, `mlflow://HOST:PORT/NAME` or
                `sagemaker://GROUP`.

        Raises:
            RegistryError: If it cannot be reached, or has another format.
        """
        place = open_place(url)
        data = place.settings()
        return cls(place, None if data is None else _key_of(data, place.url))

    @classmethod
    def create(cls, url: str, public_key: bytes | None = None) -> Self:
        """Create a registry.

        Args:
            url: As for `open`.
            public_key: PEM; only bundles signed with its private key can be published and pulled.

        Raises:
            RegistryError: If there is one already.
        """
        place = open_place(url)
        if not place.create(_settings(public_key)):
            raise RegistryError(f"{place.url} is a registry already; use it, or choose another place")
        return cls(place, public_key)

    def publish(self, bundle: str | Path, *, by: str, note: str = "") -> Version:
        """Add a bundle. One that is there already is not added again; a signature that it lacks is added.

        Args:
            bundle: A folder or a .tar.gz.
            by: Who publishes it.
            note: Anything worth knowing about it.

        Returns:
            The version.

        Raises:
            BundleError: If the bundle is invalid, or not signed as the registry demands.
            RegistryError: If the registry cannot be reached.
        """
        contents, _ = read_bundle(Path(bundle), self.public_key)
        opened = Bundle.open(bundle, key=self.public_key)
        signature = contents.pop(SIGNATURE, None)
        archive = to_tar_gz(contents)
        if self.place.settings() is None:
            self.place.create(_settings(None))
        version = Version.of(opened, archive_sha256=sha256(archive), published=_now(), by=by, note=note)
        self.place.add(version, archive, signature)
        return self.version(version.sha256)

    def versions(self) -> list[Version]:
        """All complete versions, the earliest published first."""
        return sorted(map(self.version, self.place.shas()), key=lambda version: (version.published, version.sha256))

    def version(self, sha: str) -> Version:
        """The version with this complete sha256. Raises RegistryError if there is none."""
        version = self.place.version(sha)
        if version is None:
            raise RegistryError(f"{self.place.url} has no version {sha[:12]}; tsa registry list shows its versions")
        return version

    def resolve(self, name: str) -> Version:
        """The version that an alias or the beginning of a sha256 names.

        Args:
            name: An alias, or at least 6 hex digits.

        Raises:
            RegistryError: If nothing has this name, or several versions begin so.
        """
        if ALIAS.fullmatch(name) and (entry := self.place.current(name)):
            return self.version(entry.sha256)
        known = self.place.shas() if HEX.fullmatch(name) else []
        matching = [sha for sha in known if sha.startswith(name)]
        if len(matching) == 1:
            return self.version(matching[0])
        if matching:
            raise RegistryError(f"{name} must name one version (it begins {len(matching)}); give more of its digits")
        aliases = ", ".join(self.aliases()) or "none"
        what = f"{self.place.url} has no alias or version {name!r} (its aliases: {aliases})"
        raise RegistryError(f"{what}: give an alias, or at least 6 digits of a version's sha256")

    def aliases(self) -> dict[str, AliasEntry]:
        """The entry in force of each alias, by name."""
        return {name: entry for name in self.place.alias_names() if (entry := self.place.current(name))}

    def current(self, alias: str) -> AliasEntry:
        """The entry in force of an alias. Raises RegistryError if there is no such alias."""
        entry = self.place.current(alias) if ALIAS.fullmatch(alias) else None
        if entry is None:
            raise RegistryError(f"{self.place.url} has no alias {alias!r}; tsa registry list shows its aliases")
        return entry

    def history(self, alias: str) -> list[AliasEntry]:
        """All moves of an alias, the first one first; empty if there is no such alias."""
        return self.place.entries(alias) if ALIAS.fullmatch(alias) else []

    def promote(
        self,
        name: str,
        alias: str = "champion",
        *,
        by: str,
        why: str = "",
        evidence: Mapping[str, Any] | None = None,
        seen: list[AliasEntry] | None = None,
    ) -> AliasEntry:
        """Let an alias name a version. If it does already, nothing is written.

        Args:
            name: The version: an alias, or the beginning of its sha256.
            alias: Lower-case letters, digits, `-` and `_`.
            by: Who does it.
            why: The reason.
            evidence: Plain JSON values, such as the report of a promotion gate.
            seen: The moves of the alias that the decision is based on: if there are more by now, it fails. None: as of now.

        Returns:
            The entry in force.

        Raises:
            RegistryError: For an unknown version or an invalid alias, or if somebody else moved the alias at the same time.
            BundleError: If the version's bundle was changed, or is not signed as the registry demands.
        """
        if not ALIAS.fullmatch(alias) or HEX.fullmatch(alias):
            rule = "an alias must begin with a lower-case letter and have letters, digits, - and _ only, not hex digits alone"
            raise RegistryError(f"{rule} (got {truncate_repr(alias, 70)})")
        version, entries = self.resolve(name), self.history(alias) if seen is None else seen
        self.contents(version)
        if entries and entries[-1].sha256 == version.sha256:
            return entries[-1]
        return self._move(alias, entries, version.sha256, "promote", by=by, why=why, evidence=evidence)

    def rollback(self, alias: str = "champion", *, by: str, why: str = "") -> AliasEntry:
        """Let an alias name the version before the current one again.

        Several rollbacks go back step by step.

        Args:
            alias: An alias that was promoted at least twice.
            by: Who does it.
            why: The reason.

        Returns:
            The entry in force.

        Raises:
            RegistryError: If there is no version before, or somebody else moved the alias at the same time.
            BundleError: If that version's bundle was changed.
        """
        self.current(alias)
        entries = self.history(alias)
        promoted = _in_force(entries)
        if len(promoted) < 2:
            raise RegistryError(f"{alias} has no version before {promoted[-1][:12]}; promote the one that you want")
        self.contents(self.version(promoted[-2]))
        return self._move(alias, entries, promoted[-2], "rollback", by=by, why=why, evidence=None)

    def contents(self, version: Version) -> dict[str, bytes]:
        """The files of a version's bundle, verified.

        Raises:
            BundleError: If the bundle was changed or is not signed as the registry demands.
            RegistryError: If it is missing.
        """
        where = f"{self.place.url}/versions/{version.sha256}"
        contents = verified_contents(version, self.place.archive(version.sha256), where)
        signature = self.place.signature(version.sha256)
        contents |= {} if signature is None else {SIGNATURE: signature}
        if self.public_key is not None:
            refuse_unsigned(contents, self.public_key, where)
        return contents

    def pull(self, name: str, out: str | Path) -> Version:
        """Write a version's bundle, with its signature, into a folder or a .tar.gz.

        Args:
            name: An alias, or the beginning of a sha256.
            out: Replaced if it is a bundle.

        Returns:
            The version.

        Raises:
            RegistryError: If there is no such version.
            BundleError: If its bundle was changed or is not signed as the registry demands.
            ConfigError: If something other than a bundle is at `out`.
        """
        version = self.resolve(name)
        write_contents(self.contents(version), Path(out))
        return version

    def _move(
        self,
        alias: str,
        entries: list[AliasEntry],
        sha: str,
        action: Action,
        *,
        by: str,
        why: str,
        evidence: Mapping[str, Any] | None,
    ) -> AliasEntry:
        number = entries[-1].number + 1 if entries else 1
        entry = AliasEntry(
            number=number, alias=alias, sha256=sha, action=action, by=by, at=_now(), why=why, evidence=evidence
        )
        written = self.place.append(entry)
        if written != entry:
            done = f"{written.by} moved {alias} to {written.sha256[:12]} at the same time"
            raise RegistryError(f"{done}; nothing was changed: look at tsa registry show {alias} and decide again")
        return entry


def _in_force(entries: list[AliasEntry]) -> list[str]:
    """The promoted versions that were not rolled back, the current one last."""
    promoted: list[str] = []
    for entry in entries:
        if entry.action == "rollback":
            promoted.pop()
        else:
            promoted.append(entry.sha256)
    return promoted


def _settings(public_key: bytes | None) -> bytes:
    """The content of registry.json."""
    table = {"version": FORMAT, "public_key": None if public_key is None else public_key.decode()}
    return (json.dumps(table, indent=1) + "\n").encode()


def _key_of(data: bytes, where: str) -> bytes | None:
    """The public key that a registry demands, of its registry.json."""
    try:
        table = json.loads(data)
        version, key = table["version"], table["public_key"]
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{where}/{NAME} cannot be read: {error!r}; {where} is not a registry") from None
    if version != FORMAT:
        raise RegistryError(
            f"{where}/{NAME}: this program reads registries of version {FORMAT} (got version={version!r})"
        )
    return None if key is None else str(key).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
