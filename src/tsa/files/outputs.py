"""Check where a command may write: never over, into or around its inputs, and never twice to one place.

Paths are compared by device and inode, so links, relative paths, hard links and letter case make no difference.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tsa.errors import ConfigError
from tsa.files.platform_files import is_marker
from tsa.text import brief

OPENED = ("/dev/std", "/dev/fd/", "/proc/")
"""Folders with a process's own open files."""

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How a URL begins, or the path that was made of it. A single letter is a drive."""

MAX_INSIDE = 100_000
"""Largest number of files of a folder that are checked for hard links."""

MAX_NAMED = 5
"""Largest number of conflicting files that a message names."""

UNREADABLE = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error)
"""Errors raised by opening and unpacking a file of unknown content."""

OptionalPath = str | Path | None


@dataclass(frozen=True)
class _Output:
    option: str
    path: Path
    place: Path
    """With links resolved, as far as the path exists."""
    is_replaced: bool
    """A folder that will be replaced with all its content."""


def check_outputs(
    inputs: Iterable[OptionalPath],
    *,
    files: Mapping[str, OptionalPath] | None = None,
    into: Mapping[str, OptionalPath] | None = None,
    replaced: Mapping[str, OptionalPath] | None = None,
) -> None:
    """Refuse outputs that would touch an input or each other, before anything is written. None means not given.

    Args:
        inputs: Files, folders, globs; URLs are ignored.
        files: By option, files to write.
        into: By option, folders to write files into.
        replaced: By option, folders that are replaced completely.

    Raises:
        ConfigError: Names the option and the input.
    """
    outputs = [*_outputs(files, False), *_outputs(into, False), *_outputs(replaced, True)]
    input_paths = list(_inputs(inputs))
    for output in outputs:
        for path in input_paths:
            _check_input(output, path)
    for one, other in itertools.combinations(outputs, 2):
        _check_pair(one, other)


def check_folder(out: Path, what: str, marker: str, is_own: Callable[[str], bool] | None = None) -> None:
    """Refuse an output folder with other content, which would be lost or mixed up with the output.

    Files of platforms do not count.

    Args:
        out: The folder, which need not exist.
        what: What it may contain already, for the message: `a run`.
        marker: The file that shows that it contains that.
        is_own: Whether a file of this name belongs to it, if the marker is missing.

    Raises:
        ConfigError: For a file, and for a folder with other content.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} must be a folder or not exist (it is a file); choose another place")
    if not out.exists() or (out / marker).is_file():
        return
    names = [path.name for path in out.iterdir() if not is_marker(path.name)]
    if unknown := sorted(name for name in names if is_own is None or not is_own(name)):
        listed = ", ".join(unknown[:MAX_NAMED])
        raise ConfigError(f"{out} must be empty or contain {what} (it contains {listed}); choose another folder")


def check_file(out: Path, what: str, is_one: Callable[[Path], object]) -> None:
    """Refuse to replace a file of another kind.

    Args:
        out: The file, which need not exist.
        what: What may be replaced, for the message: `a bundle`.
        is_one: Returns whether the file is of that kind, or raises one of `UNREADABLE`.

    Raises:
        ConfigError: If anything else exists there.
    """
    if not out.exists():
        return
    try:
        may_replace = out.is_file() and bool(is_one(out))  # opening a pipe would wait for its writer
    except UNREADABLE:
        may_replace = False
    if not may_replace:
        raise ConfigError(f"{out} must be {what} to be replaced (it is something else); choose another name")


def spelled_url(path: OptionalPath) -> str:
    """A URL as it was given: `Path` keeps one of the slashes alone."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]+):/+", r"\1://", brief(path))


def is_stream(path: Path) -> bool:
    """Whether bytes are written into the existing path and it is not replaced: devices, pipes, open files."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or str(path.absolute()).startswith(OPENED)


def _outputs(paths: Mapping[str, OptionalPath] | None, is_replaced: bool) -> Iterator[_Output]:
    for option, path in (paths or {}).items():
        if path is not None and URL.match(str(path)):
            rule = f"{option} must be a path on this machine (got {spelled_url(path)})"
            raise ConfigError(f"{rule}: write there and copy the result, or leave out what comes before the path")
        if path is not None and not is_stream(Path(path)):
            yield _Output(option, Path(path), Path(os.path.realpath(path)), is_replaced)


def _inputs(given: Iterable[OptionalPath]) -> Iterator[Path]:
    for name in given:
        text = "" if name is None else str(name).removeprefix("file://")
        if not text or "://" in text:
            continue
        if os.path.lexists(text):
            yield Path(text)
        else:
            yield from map(Path, glob.glob(text, recursive=True, include_hidden=True))


def _check_input(output: _Output, path: Path) -> None:
    own = _identity(path)
    if own is None:
        return
    advice = "write to another place"
    if _identity(output.place) == own:
        raise ConfigError(f"{output.option} must not be an input (got {output.path}, which is {path}): {advice}")
    if path.is_dir():
        if own in _above(output.place):
            raise ConfigError(f"{output.option} must not be inside an input folder (got {output.path}): {advice}")
        inside = list(itertools.islice(_within(path), MAX_INSIDE))
        if (place := _identity(output.place)) is not None and place in inside:
            raise ConfigError(f"{output.option} must not be a file of {path} (got {output.path}): {advice}")
    if output.is_replaced and _identity(output.place) in _above(Path(os.path.realpath(path))):
        raise ConfigError(f"{output.option} must not be a folder that contains {path} (got {output.path}): {advice}")


def _within(folder: Path) -> Iterator[tuple[int, int] | None]:
    for at, _, names in os.walk(folder):
        yield from (_identity(Path(at, name)) for name in names)


def _check_pair(one: _Output, other: _Output) -> None:
    same = _identity(one.place)
    spelled = str(one.place).casefold() == str(other.place).casefold()
    if spelled or (same is not None and same == _identity(other.place)):
        raise ConfigError(f"{one.option} and {other.option} must be different paths (got {one.path} and {other.path})")
    for outer, inner in ((one, other), (other, one)):
        if outer.is_replaced and outer.place in inner.place.parents:
            rule = f"must not be inside the folder of {outer.option}, which is replaced"
            raise ConfigError(f"{inner.option} {rule} (got {inner.path})")


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file at a path, links resolved; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _above(path: Path) -> list[tuple[int, int]]:
    """The parent folders of a path."""
    return [own for folder in path.parents if (own := _identity(folder)) is not None]
