"""The records of a registry: a version with what is known of it, and the entries of an alias.

Both are JSON objects that are written once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, TypeVar

from tsa.bundle.bundle import Bundle
from tsa.errors import RegistryError

Action = Literal["promote", "rollback"]
R = TypeVar("R", "Version", "AliasEntry")
SHOWN = ("average_precision", "roc_auc")
"""Metrics of the test range that a version's record has."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A published bundle. It never changes."""

    sha256: str
    """Of the bundle's manifest: it identifies the bundle to the byte."""
    market: str
    published: str
    """Time in UTC."""
    by: str
    note: str = ""
    archive_sha256: str
    ranges: Mapping[str, Any] = field(default_factory=dict)
    """Start and end of each range of time that it was trained and measured on."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Metrics of the test range with intervals; empty if it was not evaluated."""
    decisions: tuple[str, ...] = ()
    signed_by: str | None = None
    """The id of the key that signed it."""

    @property
    def short(self) -> str:
        """The first 12 digits of the sha256, as the endpoint names the version."""
        return self.sha256[:12]

    @classmethod
    def of(cls, bundle: Bundle, *, archive_sha256: str, published: str, by: str, note: str) -> Self:
        """The record of a bundle."""
        assert bundle.sha256 is not None
        splits = {} if bundle.data is None else bundle.data.get("splits", {})
        measured = {} if bundle.metrics is None else bundle.metrics["evaluation"]["metrics"]
        return cls(
            sha256=bundle.sha256,
            market=bundle.market.name,
            published=published,
            by=by,
            note=note,
            archive_sha256=archive_sha256,
            ranges={name: {"start": split["start"], "end": split["end"]} for name, split in splits.items()},
            metrics={name: measured[name] for name in SHOWN if name in measured},
            decisions=() if bundle.thresholds is None else tuple(d.name for d in bundle.thresholds.decisions),
        )


@dataclass(frozen=True, kw_only=True)
class AliasEntry:
    """One move of an alias. The entry with the highest number is in force."""

    number: int
    alias: str
    sha256: str
    """Of the version that the alias names from now on."""
    action: Action
    by: str
    at: str
    """Time in UTC, by the clock of the machine that wrote it. Entries are ordered by number, not by time."""
    why: str = ""
    evidence: Mapping[str, Any] | None = None
    """Such as the report of a promotion gate."""


def to_bytes(record: Version | AliasEntry) -> bytes:
    """A record as JSON."""
    return (json.dumps(asdict(record), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def version_from(data: bytes, where: str) -> Version:
    """Read a version. Raises RegistryError if this is not what `to_bytes` wrote."""
    table = _table(data, where)
    return _made(Version, {**table, "decisions": tuple(table.get("decisions", ()))}, where)


def entry_from(data: bytes, where: str) -> AliasEntry:
    """Read an entry of an alias. Raises RegistryError if this is not what `to_bytes` wrote."""
    return _made(AliasEntry, _table(data, where), where)


def _table(data: bytes, where: str) -> dict[str, Any]:
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{where} cannot be read as JSON: {error}") from None
    if not isinstance(table, dict):
        raise RegistryError(f"{where} must hold a JSON object (got {type(table).__name__})")
    return table


def _made(kind: type[R], table: Mapping[str, Any], where: str) -> R:
    try:
        return kind(**table)
    except TypeError as error:
        raise RegistryError(f"{where} must be as this program writes it (got {error})") from None
