"""Recognise errors of the system (disk full, no permission, too many open files, out of memory) and word them for
users.

Libraries report them as an error number, as a text, or as the cause of another error.
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
    errno.EROFS: "write to a folder on a writable disk",
    errno.EACCES: "give this user permission, or use another path",
    errno.EPERM: "give this user permission, or use another path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close programs with many open files",
    errno.ENOMEM: "give it more memory, or run it on less data",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u), or end some",
    errno.EIO: "check the disk or the terminal: it failed",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write to another disk",
    errno.EFAULT: "check the disk: it failed",
    errno.ESTALE: "mount the network disk again",
    errno.ETIMEDOUT: "check the network disk: it does not answer",
    errno.ENODEV: "use a path on a disk",
    errno.ENXIO: "use a path on a disk",
    errno.EBUSY: "end the program that uses it, or use another path",
    errno.ETXTBSY: "end the program that uses it, or use another path",
    errno.ELOOP: "remove the circular links",
    errno.ENAMETOOLONG: "use a shorter path",
}
"""Error number -> what to do."""
FULL = (errno.ENOSPC, errno.EDQUOT)
NEVER_MEANT = {*FULL, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
"""Errors that no code expects. If another error is raised while one of these is handled, this one is the cause."""
NUMBERS = {os.strerror(number).lower(): number for number in ADVICE if number not in (errno.EAGAIN, errno.EPERM)} | {
    "database or disk is full": errno.ENOSPC,
    "readonly database": errno.EROFS,
}
"""Texts of libraries that give no error number."""
NUMBER = re.compile(r"\((?:os error |errno )(\d+)\)")
WRITING = "while writing "


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path being written to errors of the block, since most write errors name no file."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{WRITING}{path}")
        raise


def resource_problem(error: BaseException) -> str | None:
    """What the system lacks, in one sentence, if that caused `error`; None for all other errors."""
    for cause in _causes(error):
        if isinstance(cause, MemoryError):
            return f"not enough memory ({str(cause) or 'an allocation failed'}): {ADVICE[errno.ENOMEM]}"
        if (number := number_of(cause)) is not None:
            path = _path(cause) or _path(error)
            text_of_error = os.strerror(number).lower()
            return (
                f"{path}: {text_of_error}: {ADVICE[number]}" if path else f"{text_of_error}: {ADVICE[number]} ({error})"
            )
    return None


def full(error: BaseException) -> bool:
    """Whether the cause is a full disk."""
    return any(number_of(cause) in FULL for cause in _causes(error))


def number_of(error: BaseException) -> int | None:
    """The error number of the operating system, if it is one in `ADVICE`."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in ADVICE else None
    text = str(error)
    if (match := NUMBER.search(text)) and int(match[1]) in ADVICE:
        return int(match[1])
    return next((number for said, number in NUMBERS.items() if said in text.lower()), None) if _outside(error) else None


def _outside(error: BaseException) -> bool:
    """Whether the error is from a library that reports only a text. Texts of other errors may quote a value."""
    kinds = type(error).__mro__
    return isinstance(error, OSError | RuntimeError) or any(
        kind.__module__.partition(".")[0] in ("polars", "safetensors", "safetensors_rust", "sqlite3", "pyarrow")
        for kind in kinds
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, its explicit cause, and an error that was being handled when it was raised, if that one was unexpected."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else _never_meant(cause.__context__))


def _never_meant(error: BaseException | None) -> BaseException | None:
    return error if error is not None and number_of(error) in NEVER_MEANT else None


def _path(error: BaseException) -> str | None:
    """The file of an error; for a temporary file, its target."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(WRITING):
            return str(note.removeprefix(WRITING))
    if isinstance(error, OSError):
        name = error.filename2 or error.filename
        return None if name is None else os.fsdecode(name) if isinstance(name, str | bytes) else str(name)
    return None
