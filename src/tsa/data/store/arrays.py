"""Create the arrays of a store: in the files of a folder, or in memory for a small table. Both are written in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tsa.files.writing import ArrayWriter

Entries = dict[str, dict[str, Any]]
"""Manifest entries by file name."""


class Writer(Protocol):
    """A context manager in which an array is written piece by piece."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def append(self, piece: NDArray[Any]) -> None:
        """Append rows (m, ...)."""
        ...

    @property
    def entry(self) -> dict[str, Any]:
        """The manifest's entry for the file."""
        ...


class Arrays(Protocol):
    """Creates arrays by their file names."""

    def writer(self, file: str, dtype: type[np.generic], shape: tuple[int, ...]) -> Writer:
        """A context manager that creates one array."""
        ...

    def array(self, file: str) -> NDArray[Any]:
        """One of the arrays, read-only."""
        ...


@dataclass(frozen=True)
class FolderArrays:
    """Arrays as .npy files."""

    folder: Path

    def writer(self, file: str, dtype: type[np.generic], shape: tuple[int, ...]) -> ArrayWriter:
        """As `Arrays`."""
        return ArrayWriter(self.folder / file, dtype, shape)

    def array(self, file: str) -> NDArray[Any]:
        """One of the arrays, mapped into memory, read-only."""
        array: NDArray[Any] = np.load(self.folder / file, mmap_mode="r", allow_pickle=False)
        return array


@dataclass(frozen=True)
class MemoryArrays:
    """Arrays in memory, with the same types and shapes."""

    made: dict[str, NDArray[Any]] = field(default_factory=dict)

    def writer(self, file: str, dtype: type[np.generic], shape: tuple[int, ...]) -> MemoryWriter:
        """As `Arrays`."""
        self.made[file] = np.empty(shape, dtype)
        return MemoryWriter(file, self.made[file])

    def array(self, file: str) -> NDArray[Any]:
        """One of the arrays, read-only like those of files."""
        array = self.made[file].view()
        array.flags.writeable = False
        return array


class MemoryWriter:
    """Fills an array piece by piece, as `ArrayWriter` writes one."""

    def __init__(self, file: str, array: NDArray[Any]) -> None:
        self.file, self.array, self._rows = file, array, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._rows != len(self.array):
            raise ValueError(f"{self.file} must get {len(self.array)} rows (got {self._rows})")

    def append(self, piece: NDArray[Any]) -> None:
        """Append rows (m, ...). Their other axes are those of the array."""
        if piece.shape[1:] != self.array.shape[1:]:
            raise ValueError(f"{self.file} takes rows of shape {self.array.shape[1:]} (got {piece.shape[1:]})")
        self.array[self._rows : self._rows + len(piece)] = piece
        self._rows += len(piece)

    @property
    def entry(self) -> dict[str, Any]:
        """An empty entry: there is no file."""
        return {}


def write_array(arrays: Arrays, file: str, kind: type[np.generic], n: int, pieces: Iterable[NDArray[Any]]) -> Entries:
    """Write the pieces of an array of n values as a file. Returns its entry for the manifest."""
    with arrays.writer(file, kind, (n,)) as writer:
        for piece in pieces:
            writer.append(piece)
    return {file: writer.entry}
