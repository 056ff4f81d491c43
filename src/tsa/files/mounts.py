"""Replace the content of folders that cannot be renamed: mount points, and folders whose parent is not writable."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tsa.files.platform_files import is_marker

TABLE = Path("/proc/self/mountinfo")
POINT = 4
"""Index of the mount point among the words of a line of the mount table."""


def cannot_move(path: Path) -> bool:
    """Whether no folder can be renamed to the path of the folder `path`."""
    return path.is_dir() and (is_mount(path) or not os.access(path.absolute().parent, os.W_OK | os.X_OK))


def is_mount(path: Path) -> bool:
    """Whether `path` is a mount point, also for a bind mount within one file system, which Python does not detect."""
    if os.path.ismount(path):
        return True
    try:
        lines = TABLE.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    # spaces and the like are written as three octal digits
    points = {re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[POINT]) for line in lines}
    return os.path.realpath(path) in points


def replace_content(out: Path, new: Path, marker: str) -> None:
    """Replace the content of the folder `out` by that of the folder `new`, which is on the same file system.

    Each file is replaced atomically, but not all of them together. So `marker` is removed first and written last: a
    reader finds an incomplete folder and never a mixture.
    """
    (out / marker).unlink(missing_ok=True)
    names = {path.name for path in new.iterdir()}
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name in names or not is_marker(path.name):
                shutil.rmtree(path)
        elif path.name not in names and not is_marker(path.name):
            path.unlink()
    for name in sorted(names, key=lambda name: (name == marker, name)):
        os.replace(new / name, out / name)
