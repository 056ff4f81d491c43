"""A registry of bundles: publish versions, and move aliases such as `champion` from one to another.

registry = Registry.open("file:///models/cards")
version = registry.publish("run/bundle", by="ann")
registry.promote(version.sha256, "champion", by="ann", why="better on May")
"""

from tsa.registry.following import AliasFollower
from tsa.registry.place import ObjectPlace, RegistryPlace
from tsa.registry.records import AliasEntry, Version
from tsa.registry.registry import Registry
from tsa.registry.storage import FolderStorage, S3Storage, Storage

__all__ = [
    "AliasEntry",
    "AliasFollower",
    "FolderStorage",
    "ObjectPlace",
    "Registry",
    "RegistryPlace",
    "S3Storage",
    "Storage",
    "Version",
]
