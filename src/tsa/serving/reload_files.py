"""What is read again while a server runs: the bundle, the files of tokens and the certificate, and the shadow's file.

On SIGHUP all of it; tokens and certificate also when their files change. What cannot be read is said in the log, and what
was read before stays.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tsa.errors import TSAError
from tsa.serving.auth import Credentials
from tsa.serving.file_descriptors import look_at_descriptors
from tsa.serving.problems import ProblemError
from tsa.serving.tls import Certificates
from tsa.system_errors import lack

if TYPE_CHECKING:
    from tsa.serving.scoring.app_state import AppState

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0

Marks = dict[Path, tuple[int, int, int] | None]


class Renewal:
    """Belongs to the event loop: all but its making is done there."""

    def __init__(self, service: AppState, certificates: Certificates | None) -> None:
        self._service, self._certificates = service, certificates
        settings = service.settings
        tls = (settings.ssl_certificate, settings.ssl_key, settings.ssl_client_ca)
        self._files = [*settings.token_files, *settings.admin_token_files, *(path for path in tls if path is not None)]
        self._marks = self._look()
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def ask(self) -> None:
        """Read everything again, soon."""
        self._asked.set()

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._asked.wait(), LOOK_SECONDS)
            except TimeoutError:
                look_at_descriptors()
                if self._look() != self._marks:
                    self._read_files()
                continue
            self._asked.clear()
            await self._read_all()

    async def _read_all(self) -> None:
        logger.info("SIGHUP: bundle, tokens and certificate are read again")
        self._read_files()
        try:
            if self._service.shadow is not None:
                self._service.shadow.reopen()
        except OSError as error:
            logger.error("the shadow's file was not opened anew: %s", lack(error) or error.strerror)
        try:
            await self._service.reload()
        except ProblemError:  # reload has said why
            logger.warning("the bundle before it goes on")
        except Exception as error:
            logger.error("the bundle was not read again: %s", type(error).__name__)

    def _read_files(self) -> None:
        self._marks = self._look()
        for what, read in (("tokens", self._read_tokens), ("certificate", self._read_certificate)):
            try:
                read()
            except (TSAError, OSError, ValueError) as error:
                said = str(error) if isinstance(error, TSAError) else lack(error) or type(error).__name__
                logger.error("the %s could not be read again, those before stay: %s", what, said)

    def _read_tokens(self) -> None:
        self._service.secrets = Credentials(self._service.settings)

    def _read_certificate(self) -> None:
        if self._certificates is not None:
            self._certificates.renew()

    def _look(self) -> Marks:
        """What tells a file from the one that was there before; links are followed, as Kubernetes renews by them."""
        return {path: _mark(path) for path in self._files}


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
