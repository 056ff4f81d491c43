"""Folders that cannot be renamed: mounts, and those in a folder that may not be written. Their content is replaced instead."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tsa.files.platform_files import is_marker

TABLE = Path("/proc/self/mountinfo")
POINT = 4
"""Which word of a line of the table is the folder or file that something is mounted on."""


def cannot_move(path: Path) -> bool:
    """Whether another folder cannot be renamed to the place of the folder `path`."""
    return path.is_dir() and (is_mount(path) or not os.access(path.absolute().parent, os.W_OK | os.X_OK))


def is_mount(path: Path) -> bool:
    """Whether something is mounted at `path`, be it a folder of the same file system (a bind mount), which Python does not see."""
    if os.path.ismount(path):
        return True
    try:
        lines = TABLE.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    # spaces and the like are written as three octal digits
    points = {re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[POINT]) for line in lines}
    return os.path.realpath(path) in points


def replace_content(out: Path, new: Path, marker: str) -> None:
    """Put what is in the folder `new`, which lies on the same file system, in the place of what is in the folder `out`.

    Each file is replaced at once, all of them are not: `marker` is taken away first and put there last, so that whoever
    looks at the folder meanwhile finds nothing rather than a mixture.
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
