"""The server's TLS certificate: checked before the start, and reloaded when it was renewed."""

from __future__ import annotations

import ssl
from pathlib import Path

from tsa.errors import ConfigError
from tsa.files.reading import read_small_file
from tsa.serving.settings import ServeSettings
from tsa.system_errors import resource_problem


class Certificates:
    """The certificate of new connections. `context` remains the same object when the certificate is reloaded."""

    def __init__(self, settings: ServeSettings) -> None:
        """Load the files. Raises ConfigError if they cannot be read or do not match."""
        self._settings = settings
        self.context = self._newest = context_of(settings)
        self.context.sni_callback = self._choose

    def renew(self) -> None:
        """Reload the files. Raises ConfigError if they do not match; the old certificate then stays in use."""
        self._newest = context_of(self._settings)

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called by each connection before its certificate is shown."""
        if self._newest is not context:
            connection.context = self._newest


def context_of(settings: ServeSettings) -> ssl.SSLContext:
    """Create the SSL context of these files. Raises ConfigError if they are invalid."""
    certificate, key, authority = settings.ssl_certificate, settings.ssl_key, settings.ssl_client_ca
    assert certificate is not None
    assert key is not None
    for path in (certificate, key, *([] if authority is None else [authority])):
        _check_readable(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: _refuse_password(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"the key must belong to the certificate (got {key} and {certificate})") from None
        reason = error.reason or error.strerror
        raise ConfigError(
            f"the certificate and its key must be PEM files (got {certificate} and {key}: {reason})"
        ) from None
    if authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0  # a resumed session would not present the client's certificate again
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError as error:
            raise ConfigError(
                f"client_ca must be a PEM file of certificates (got {authority}: {error.reason or error.strerror})"
            ) from None
    return context


def _check_readable(path: Path) -> None:
    try:
        read_small_file(path)
    except OSError as error:
        raise ConfigError(resource_problem(error) or f"{path}: {error.strerror}") from None


def _refuse_password(key: Path) -> str:
    raise ConfigError(f"the key must not be encrypted (got {key}): there is nobody to type its password")
