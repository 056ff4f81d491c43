"""Sign and verify bundles: an Ed25519 signature (RFC 8032) over the manifest, which has the hashes of all other files.

Keys are PEM files; private keys are never stored in a bundle.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from tsa.bundle.archive import opened, write_contents
from tsa.bundle.manifest import MANIFEST, SIGNATURE, Contents, check_hashes, read_manifest, sha256, sizes_of, to_json
from tsa.errors import BundleError, ConfigError
from tsa.files.writing import atomic_file
from tsa.optional_libraries import imported, is_installed
from tsa.system_errors import naming

KIND = "ed25519"


def make_keys(private: Path, public: Path) -> None:
    """Write a new pair of keys; only the owner can read the private one.

    Raises:
        ConfigError: If one of the files exists.
    """
    serialization, ed25519 = _cryptography()
    for path in (private, public):
        if path.exists():
            raise ConfigError(f"{path} must not exist yet (got an existing file); keys are not overwritten")
    key = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    with naming(private), os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        try:
            file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
            file.flush()
            with atomic_file(public) as temporary:
                temporary.write_bytes(
                    key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
                )
        except BaseException:
            private.unlink()  # do not leave half a pair
            raise


def sign(path: Path, private: bytes) -> str:
    """Sign the bundle at `path` with a private key (PEM).

    Returns:
        The id of the public key.

    Raises:
        BundleError: If the bundle is incomplete or changed.
        ConfigError: For an invalid key.
    """
    contents, _ = read_bundle(path, signed=False)
    key = _private_key(private)
    key_id = _key_id(key.public_key())
    signed = _signed(KIND, key_id, _raw(key.public_key()), key.sign(contents[MANIFEST]))
    write_contents({**contents, SIGNATURE: to_json(signed)}, path)
    return key_id


def verify(path: Path, public: bytes) -> str:
    """Check the bundle at `path` and its signature, and return the id of the key. Raises BundleError."""
    contents, _ = read_bundle(path, public)
    return refuse_unsigned(contents, public, str(path))


def read_bundle(
    path: Path, key: bytes | None = None, *, signed: bool = True
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Read the files and the manifest of the bundle at `path`, and verify all hashes.

    Other files are read only after manifest and signature are valid and fit each other.

    Args:
        key: A public key (PEM); the bundle must be signed with its private key.
        signed: Whether an existing signature must fit this manifest.

    Raises:
        BundleError: Names the file that is missing, extra or changed.
    """
    where = str(path)
    with opened(path) as source:
        head = source.head()
        manifest = read_manifest(head, where)
        sizes = sizes_of(manifest, where)
        if SIGNATURE in head and signed:
            refuse_altered(head, where)
        if key is not None:
            refuse_unsigned(head, key, where)
        contents = {**head, **source.files(sizes)}
    check_hashes(contents, manifest, where)
    return contents, manifest


def refuse_unsigned(contents: Contents, public: bytes, where: str) -> str:
    """Return the id of the key; raise BundleError unless the manifest was signed with the private key of `public` (PEM)."""
    key = _public_key(public)
    key_id = _key_id(key)
    if SIGNATURE not in contents:
        raise BundleError(f"{where} must be signed with the key {key_id[:12]} (got no signature)")
    kind, signer, _, signature = _parts(contents, where)
    if kind != KIND or signer != key_id:
        raise BundleError(f"{where} must be signed with the key {key_id[:12]} (got {kind} key {str(signer)[:12]})")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, contents[MANIFEST])
    except InvalidSignature:
        raise BundleError(f"{where}/{SIGNATURE} was changed, or the manifest was changed after signing") from None
    return key_id


def signer_of(contents: Contents) -> str | None:
    """The id of the key in a bundle's signature, not verified; None without a signature."""
    try:
        return str(json.loads(contents[SIGNATURE])["key"])
    except (ValueError, KeyError, TypeError):
        return None


def refuse_altered(contents: Contents, where: str) -> None:
    """Raise BundleError if the signature does not fit the manifest and the key that it names (corrupted data).

    This does not prove who signed; that needs the public key from another source. Without the library only the form is
    checked.
    """
    kind, signer, public, signature = _parts(contents, where)
    if kind != KIND or signer != sha256(public):
        raise BundleError(f"{where}/{SIGNATURE} was changed: its key does not match its key id")
    if not is_installed("cryptography"):
        return
    from cryptography.exceptions import InvalidSignature

    _, ed25519 = _cryptography()
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, contents[MANIFEST])
    except (InvalidSignature, ValueError):
        raise BundleError(f"{where}/{SIGNATURE} was changed, or the manifest was changed after signing") from None


def _parts(contents: Contents, where: str) -> tuple[str, str, bytes, bytes]:
    """(kind, id of the key, public key, signature). Raises BundleError for a file that `sign` would not write."""
    try:
        signed = json.loads(contents[SIGNATURE])
        kind, signer = signed["kind"], signed["key"]
        public, signature = (base64.b64decode(signed[name], validate=True) for name in ("public", "signature"))
        is_complete = to_json(_signed(kind, signer, public, signature)) == contents[SIGNATURE]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{where}/{SIGNATURE} cannot be read: {error!r}") from None
    if not is_complete:
        raise BundleError(f"{where}/{SIGNATURE} was changed: it does not contain a signature")
    return kind, signer, public, signature


def _signed(kind: str, key_id: str, public: bytes, signature: bytes) -> dict[str, str]:
    spelled = {name: base64.b64encode(value).decode() for name, value in (("public", public), ("signature", signature))}
    return {"kind": kind, "key": key_id, **spelled}


def _raw(public: Any) -> bytes:
    serialization, _ = _cryptography()
    raw: bytes = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw


def _key_id(public: Any) -> str:
    return sha256(_raw(public))


def _private_key(pem: bytes) -> Any:
    serialization, ed25519 = _cryptography()
    return _loaded(lambda: serialization.load_pem_private_key(pem, None), ed25519.Ed25519PrivateKey, "private")


def _public_key(pem: bytes) -> Any:
    serialization, ed25519 = _cryptography()
    return _loaded(lambda: serialization.load_pem_public_key(pem), ed25519.Ed25519PublicKey, "public")


def _loaded(load: Any, kind: type, which: str) -> Any:
    try:
        key = load()
    except (ValueError, TypeError):
        raise ConfigError(f"the key must be a {which} key of tsa bundle keygen (got no Ed25519 key in PEM)") from None
    if not isinstance(key, kind):
        raise ConfigError(f"the key must be a {which} key of tsa bundle keygen (got {type(key).__name__})")
    return key


def _cryptography() -> Any:
    imported("a signature", "cryptography", "sign")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return serialization, ed25519
