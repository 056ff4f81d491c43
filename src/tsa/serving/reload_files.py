"""Reload files while a server runs: bundle, tokens, certificate and the shadow's file.

All of them on SIGHUP; tokens and certificate also when their files change. If a file cannot be read, this is logged and the
old content stays in use.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tsa.errors import TSAError
from tsa.serving.auth import Credentials
from tsa.serving.errors import RefusedError
from tsa.serving.file_descriptors import warn_if_descriptors_run_out
from tsa.serving.tls import Certificates
from tsa.system_errors import resource_problem

if TYPE_CHECKING:
    from tsa.serving.scoring.app_state import AppState

logger = logging.getLogger(__name__)

CHECK_SECONDS = 2.0

Marks = dict[Path, tuple[int, int, int] | None]


class Renewal:
    """Reloads files. All methods except `__init__` must run in the event loop."""

    def __init__(self, service: AppState, certificates: Certificates | None) -> None:
        self._service, self._certificates = service, certificates
        settings = service.settings
        tls = (settings.ssl_certificate, settings.ssl_key, settings.ssl_client_ca)
        self._files = [*settings.token_files, *settings.admin_token_files, *(path for path in tls if path is not None)]
        self._marks = self._file_marks()
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start watching the files."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def ask(self) -> None:
        """Reload everything soon."""
        self._asked.set()

    def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._asked.wait(), CHECK_SECONDS)
            except TimeoutError:
                warn_if_descriptors_run_out()
                if self._file_marks() != self._marks:
                    self._read_files()
                continue
            self._asked.clear()
            await self._read_all()

    async def _read_all(self) -> None:
        logger.info("SIGHUP: reloading bundle, tokens and certificate")
        self._read_files()
        try:
            if self._service.shadow is not None:
                self._service.shadow.reopen()
        except OSError as error:
            logger.error("the shadow's file was not reopened: %s", resource_problem(error) or error.strerror)
        try:
            await self._service.reload()
        except RefusedError:  # reload has logged why
            logger.warning("the old bundle stays in use")
        except Exception as error:
            logger.error("the bundle was not reloaded: %s", type(error).__name__)

    def _read_files(self) -> None:
        self._marks = self._file_marks()
        for what, read in (("tokens", self._read_tokens), ("certificate", self._read_certificate)):
            try:
                read()
            except (TSAError, OSError, ValueError) as error:
                reason = str(error) if isinstance(error, TSAError) else resource_problem(error) or type(error).__name__
                logger.error("the %s could not be reloaded, the old ones stay in use: %s", what, reason)

    def _read_tokens(self) -> None:
        self._service.secrets = Credentials(self._service.settings)

    def _read_certificate(self) -> None:
        if self._certificates is not None:
            self._certificates.renew()

    def _file_marks(self) -> Marks:
        """Inode, time and size of each file; links are followed, because Kubernetes updates files by changing links."""
        return {path: _mark(path) for path in self._files}


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
