"""A folder that one process at a time may use."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tsa.errors import ConfigError


@contextmanager
def used_alone(folder: Path, user: str) -> Iterator[None]:
    """Hold a folder, which is made if there is none. The end of the process, however it ends, sets it free.

    Args:
        folder: Gets a file `lock`.
        user: Such as `tsa retrain`, for the message.

    Raises:
        ConfigError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} must be used by one {user} at a time (another one runs); wait for it"
            ) from None
        yield
