"""What the machine has too little of, or does not allow, in one sentence: disk space, rights, open files, memory.

Each library says it in its own way: with an error number, with a text, or in an error that caused another one.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADVICE = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "remove files of this user, or write to another disk",
    errno.EROFS: "write to a folder of a disk that takes files",
    errno.EACCES: "give this user the right, or use another path",
    errno.EPERM: "give this user the right, or use another path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close programs that hold many files open",
    errno.ENOMEM: "give it more memory, or run it on less data",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u), or end some",
    errno.EIO: "look into the disk or the terminal: it failed",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write to another disk",
    errno.EFAULT: "look into the disk: it failed",
    errno.ESTALE: "mount the network disk anew",
    errno.ETIMEDOUT: "look into the network disk: it does not answer",
    errno.ENODEV: "use a path on a disk",
    errno.ENXIO: "use a path on a disk",
    errno.EBUSY: "end what uses it, or use another path",
    errno.ETXTBSY: "end what uses it, or use another path",
    errno.ELOOP: "remove the links that lead to one another",
    errno.ENAMETOOLONG: "use a shorter path",
}
"""Error number -> what to do."""
FULL = (errno.ENOSPC, errno.EDQUOT)
NEVER_MEANT = {*FULL, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
"""What no code expects: where an error came up while one of these was dealt with, this is why."""
SAID = {os.strerror(number).lower(): number for number in ADVICE if number not in (errno.EAGAIN, errno.EPERM)} | {
    "database or disk is full": errno.ENOSPC,
    "readonly database": errno.EROFS,
}
"""How libraries that give no number say it."""
NUMBER = re.compile(r"\((?:os error |errno )(\d+)\)")
WRITING = "while writing "


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the block say what was being written: most errors of writing name no file."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{WRITING}{path}")
        raise


def lack(error: BaseException) -> str | None:
    """What the machine lacks, in one sentence, where that is why `error` was raised; None for all other errors."""
    for cause in _causes(error):
        if isinstance(cause, MemoryError):
            return f"not enough memory ({str(cause) or 'an allocation failed'}): {ADVICE[errno.ENOMEM]}"
        if (number := number_of(cause)) is not None:
            path = _path(cause) or _path(error)
            said = os.strerror(number).lower()
            return f"{path}: {said}: {ADVICE[number]}" if path else f"{said}: {ADVICE[number]} ({error})"
    return None


def full(error: BaseException) -> bool:
    """Whether it was raised because a disk is full."""
    return any(number_of(cause) in FULL for cause in _causes(error))


def number_of(error: BaseException) -> int | None:
    """The error number of the operating system, where it is one of a lack."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in ADVICE else None
    text = str(error)
    if (found := NUMBER.search(text)) and int(found[1]) in ADVICE:
        return int(found[1])
    return next((number for said, number in SAID.items() if said in text.lower()), None) if _outside(error) else None


def _outside(error: BaseException) -> bool:
    """Whether a library raised it of which the text is all that there is; the text of others may quote a value."""
    kinds = type(error).__mro__
    return isinstance(error, OSError | RuntimeError) or any(
        kind.__module__.partition(".")[0] in ("polars", "safetensors", "safetensors_rust", "sqlite3", "pyarrow")
        for kind in kinds
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and what was dealt with as it came up where that is no usual thing to deal with."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else _never_meant(found.__context__))


def _never_meant(error: BaseException | None) -> BaseException | None:
    return error if error is not None and number_of(error) in NEVER_MEANT else None


def _path(error: BaseException) -> str | None:
    """The file of an error; of a file written aside, the one that it was to become."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(WRITING):
            return str(note.removeprefix(WRITING))
    if isinstance(error, OSError):
        found = error.filename2 or error.filename
        return None if found is None else os.fsdecode(found) if isinstance(found, str | bytes) else str(found)
    return None
