"""Find the files of a log: files, folders and globs on this machine, and object-store URLs."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import polars as pl

from tsa.errors import DataError

logger = logging.getLogger(__name__)

KINDS = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "jsonl": "json",
    "ndjson": "json",
    "json": "json",
}
COMPRESSED = ("gz", "zst")
OWN_FOLDERS = {
    "a bundle": ("manifest.json", "encoder.json", "weights.safetensors"),
    "a store": ("manifest.json", "encoder.json"),
    "a run": ("run.json", "bundle"),
    "a monitoring": ("monitor.json", "reference.json"),
    "an evaluation": ("report.json", "report.html"),
}
"""Folders that this program writes, by the names of the files in them."""
SCORES, SCORES_KIND = "scores.json", "tsa scores by day"
"""The file in a folder of scores by day, and the kind that it begins with; others may have a file of this name."""
PEEK = 100
HIDDEN = ("_", ".")
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
SHOWN = 3


def find_files(logs: Sequence[str]) -> list[tuple[str, str]]:
    """(path, kind) of each file, in the order given; those of a glob or folder are sorted. No file is read twice.

    In folders, and where a glob has a wildcard, names that begin with `_` or `.` are skipped, as Spark and Hive do.

    Raises:
        DataError: For a log without files, a file of unknown kind, or a folder that this program wrote.
    """
    files: dict[str, tuple[str, str]] = {}
    for log in map(str, logs):
        log = log.removeprefix("file://")
        if not log.strip():
            raise DataError("log: a name must not be empty; name files, folders or URLs")
        paths = [log] if "://" in log else list(_local(log))
        if not paths:
            if Path(log).is_dir():
                raise DataError(
                    f"log: the folder {log!r} holds no file of a known kind ({_endings()}); correct the path"
                )
            raise DataError(f"log: no such file or folder: {log!r}; correct the path")
        for path in paths:
            kind = kind_of(path)
            if "://" not in path:
                _check_regular(path)
            files.setdefault(path if "://" in path else os.path.realpath(path), (path, kind))
    if not files:
        raise DataError("log: at least one file must be named (got none)")
    return list(files.values())


def _check_regular(path: str) -> None:
    """Raise DataError for a link to nothing, and for a pipe or device: a log is read several times."""
    if not os.path.exists(path):
        raise DataError(f"log: {path} must be a file (it is a link to a file that is not there)")
    if not os.path.isfile(path):
        raise DataError(f"log: {path} must be a file (it is a pipe or a device); write its content to a file first")


def kind_of(path: str) -> str:
    """The kind of a file by its ending. Raises DataError for an unknown ending."""
    kind = _kind_or_none(path)
    if kind is None:
        raise DataError(f"log: a file must end in one of {_endings()} (text also in .gz or .zst) (got {path!r})")
    return kind


def _endings() -> str:
    return ", ".join(f".{end}" for end in KINDS)


def folder_names(path: str) -> set[str]:
    """The names of columns in folders of a path such as `sales/month=01/day=02/part.parquet`, as Hive and Spark write."""
    parts = (part.partition("=") for part in path.split("/")[:-1])
    return {unquote(name) for name, mark, _ in parts if name and mark}


def folder_value(path: pl.Expr, name: str) -> pl.Expr:
    """The value of the column `name` in the folders of paths, as a text; null for Hive's name of no value."""
    part = rf"(?:^|/)(?:{re.escape(name)}|{re.escape(quote(name))})=([^/]*)/"
    value = path.str.extract(part, 1)
    value = pl.when(value != NO_VALUE).then(value)
    return value.map_batches(_unquoted, return_dtype=pl.String(), is_elementwise=True)


def _unquoted(texts: pl.Series) -> pl.Series:
    different = texts.drop_nulls().unique()
    return texts.replace(different, pl.Series([unquote(text) for text in different], dtype=pl.String))


def _local(log: str) -> Iterator[str]:
    path = Path(log)
    if path.is_dir():
        yield from _of_folder(path)
    elif path.is_file():
        yield log
    else:
        matches = [match for match in sorted(glob.glob(log, recursive=True)) if not _is_hidden(match, log)]
        unknown = [match for match in matches if not Path(match).is_dir() and _kind_or_none(match) is None]
        if len(matches) > len(unknown):
            _log_ignored_files(log, unknown)
            matches = [match for match in matches if match not in unknown]
        for match in matches:
            inner = Path(match)
            yield from _of_folder(inner) if inner.is_dir() else (match,)


def _is_hidden(match: str, pattern: str) -> bool:
    """Whether a wildcard, and not the user's pattern itself, matched a name that begins with `_` or `.`."""
    asked = pattern.split("/")
    names = (name for name in match.split("/") if name.startswith(HIDDEN) and name not in (".", ".."))
    return any(not any(part.startswith(name[0]) for part in asked) for name in names)


def _of_folder(folder: Path) -> Iterator[str]:
    """The tables and folders in a folder. Raises DataError if this program wrote one of them."""
    tables: list[str] = []
    unknown: list[str] = []
    _refuse_own(folder, folder)
    entered = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(HIDDEN) and _is_new(Path(place, name), entered)]
        for name in folders:
            _refuse_own(Path(place) / name, folder)
        for name in (name for name in names if not name.startswith(HIDDEN)):
            (unknown if _kind_or_none(name) is None else tables).append(str(Path(place) / name))
    _log_ignored_files(folder, unknown)
    yield from sorted(tables)


def _is_new(folder: Path, entered: set[str]) -> bool:
    """Whether a folder is entered for the first time; remembers it, since links may form a circle."""
    place = os.path.realpath(folder)
    if place in entered:
        return False
    entered.add(place)
    return True


def _log_ignored_files(log: str | Path, paths: Sequence[str]) -> None:
    if paths:
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        shown = ", ".join(sorted(paths)[:SHOWN])
        logger.warning("%s: files of no known kind are not read: %s%s", log, shown, more)


def _refuse_own(folder: Path, log: Path) -> None:
    own = (what for what, names in OWN_FOLDERS.items() if all((folder / name).exists() for name in names))
    what = next(own, "a folder of scores" if _has_scores(folder) else None)
    if what is not None:
        inside = "" if folder == log else f" inside the log folder {log}"
        raise DataError(
            f"log: {folder} is {what} that this program wrote{inside}, not payments; "
            "name the files of the log, or move that folder elsewhere"
        )


def _has_scores(folder: Path) -> bool:
    """Whether a folder has scores by day, of `tsa score --out FOLDER`."""
    if not (folder / SCORES).is_file():
        return False
    with (folder / SCORES).open("rb") as file:
        return SCORES_KIND.encode() in file.read(PEEK)


def _kind_or_none(path: str) -> str | None:
    parts = path.split("?")[0].lower().rsplit("/", 1)[-1].split(".")[1:]
    if len(parts) > 1 and parts[-1] in COMPRESSED:
        kind = KINDS.get(parts[-2])
        return kind if kind != "parquet" else None
    return KINDS.get(parts[-1]) if parts else None


def short_names(paths: Sequence[str]) -> list[str]:
    """What files are called in ids that are made: their names, with as many folders before them as make them different."""
    parts = [path.replace(os.sep, "/").split("/") for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names if paths else []
