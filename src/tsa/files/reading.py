"""Read small files that are read again while a program runs, such as secrets and certificates."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tsa.errors import ConfigError

MAX_BYTES = 2**20


def read_small_file(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        ConfigError: For a pipe, which would block, for a device, which may have no end, and for a larger file.
        OSError: If it cannot be opened or read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # does not wait for the writer of a pipe
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} must be a file, which can be read again (it is a pipe, a device or a socket)")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ConfigError(f"{path} must have at most {max_bytes} bytes (got {status.st_size})")
    return content
