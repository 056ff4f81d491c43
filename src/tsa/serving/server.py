"""`run` serves with one worker in this process, or with several that a supervisor looks after."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time

from tsa.errors import ConfigError
from tsa.serving.scoring.app_state import AppState
from tsa.serving.settings import ServeSettings
from tsa.serving.supervisor import supervise
from tsa.serving.tls import Certificates
from tsa.serving.worker import Server

logger = logging.getLogger(__name__)

ADDRESS_SECONDS = 3.0
"""How long to wait for an address in use: workers of a killed server release it shortly after."""


def run(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the port is not free, or the settings do not fit. Also raises what opening the bundle or store raises.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        logger.warning("running as root: an unprivileged user is enough, and safer")
    if settings.workers == 1:
        with contextlib.closing(bind(settings)) as own:
            Server(settings).run(sockets=[own])
        return
    if settings.ssl_certificate is not None:
        Certificates(settings)
    first = AppState(settings)  # report errors in the settings here, once, and not in each worker
    seen = None if first.store is None else first.store.seen
    first.close()
    # workers started later must use the same store and not create a new one
    settings = settings.model_copy(update={"new_store": False, "history_seen": seen})
    with contextlib.closing(bind(settings)) as listening:
        supervise(settings, listening)


def bind(settings: ServeSettings) -> socket.socket:
    """Bind the socket that workers listen on once they are ready; until then connections are refused and do not hang.

    Raises:
        ConfigError: the address is in use.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end = time.monotonic() + ADDRESS_SECONDS
    while True:
        try:
            listening.bind((settings.host, settings.port))
            break
        except OSError as error:
            if time.monotonic() < end and settings.port:
                time.sleep(0.1)
                continue
            listening.close()
            raise ConfigError(f"port must be free on {settings.host} (got {settings.port}: {error.strerror})") from None
    listening.set_inheritable(True)
    return listening
