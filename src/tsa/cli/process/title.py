"""Mask passwords of URLs in the command line of the process, which every user of the machine can read."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from pathlib import Path

_PASSWORD = re.compile(rb"(?<=://)[^\0]*(?=@)|(?<=[?&]password=)[^&\0]*")
_ARGUMENTS_BEGIN, _ARGUMENTS_END = 45, 46
"""Fields of /proc/self/stat, counted from the one after the name: where in memory the command line begins and ends."""


def strike_out_passwords() -> None:
    """Overwrite users and passwords of URLs in the command line that the system shows. On Linux only."""
    if not sys.platform.startswith("linux") or not any("://" in word for word in sys.argv):
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        begin, end = int(fields[_ARGUMENTS_BEGIN]), int(fields[_ARGUMENTS_END])
        shown = Path("/proc/self/cmdline").read_bytes()
        if not 0 < len(shown) <= end - begin or ctypes.string_at(begin, len(shown)) != shown:
            return
        for match in _PASSWORD.finditer(shown):
            ctypes.memset(begin + match.start(), ord("*"), match.end() - match.start())
