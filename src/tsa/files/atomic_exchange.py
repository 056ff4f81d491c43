"""Let two files or folders change places in one step, so that a process killed at any time leaves one of them there."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

CURRENT_FOLDER, RENAME_EXCHANGE = -100, 2
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""Errors of a system, or a file system such as NFS, that cannot do it."""


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths on one file system. Returns False, with nothing changed, where the system cannot do that.

    Raises:
        OSError: For any other reason.
    """
    rename = _renameat2()
    if rename is None:
        return False
    if rename(CURRENT_FOLDER, os.fsencode(one), CURRENT_FOLDER, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@cache
def _renameat2() -> Any:
    """The function of the C library; None where there is none (macOS, musl)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function
