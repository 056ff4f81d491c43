"""A safe pickle loader for the legacy system's artefacts: it builds plain data and numpy arrays of numbers only.

Before anything runs, opcodes are checked against an allowlist. Names resolve only to placeholders for numpy's own,
inert records that this module converts to arrays afterwards. No class, function or attribute of any module can be
reached.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tsa.errors import ArtefactError
from tsa.files.writing import atomic_file
from tsa.text import brief, truncate_repr

MAX_BYTES = 64 * 2**20
DEEPEST = 16
SHOWN = 80
"""Largest number of characters of a value in a message."""

_OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL REDUCE BUILD
"""
OPCODES = frozenset(_OPCODES.split())
"""The opcodes that data needs. Left out: INST, OBJ, NEWOBJ (create any class), EXT (extension registry), PERSID, sets, buffers."""


PUTS, GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


def read_pickle(path: Path) -> Any:
    """Lists, tuples, dicts, strings, numbers and numpy arrays of numbers from a pickle file.

    Raises:
        ArtefactError: If it contains anything else.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ArtefactError(f"{path.name} must have {MAX_BYTES:,} bytes at most (got {size:,})")
    try:
        return load_pickle(path.read_bytes())
    except ArtefactError as error:
        raise ArtefactError(f"{path.name} {error}") from error


def load_pickle(data: bytes) -> Any:
    """As `read_pickle`, from bytes."""
    _check_opcodes(data)
    try:
        loaded = _Loader(io.BytesIO(data), encoding="latin1").load()
        return _Plain().of(loaded, 0)
    except ArtefactError:
        raise
    except Exception as error:  # a truncated or malicious pickle can fail in every opcode
        raise ArtefactError(f"cannot be read as a pickle of plain data: {truncate_repr(error, 200)}") from error


def write_pickle(path: Path, value: list[Any]) -> None:
    """Write plain lists of numbers atomically as a pickle that any Python reads."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(pickle.dumps(value, protocol=2))


def _check_opcodes(data: bytes) -> None:
    stack = _Stack()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in OPCODES:
                raise ArtefactError(f"must hold plain data (got opcode {opcode.name})")
            if opcode.name in PUTS and not 0 <= int(argument or 0) <= len(data):
                raise ArtefactError(f"must number its memo entries in order (got memo {argument})")
            stack.after(opcode, argument)
    except ArtefactError:
        raise
    except Exception as error:
        raise ArtefactError(f"cannot be read as a pickle: {brief(error, 200)}") from error


class _Stack:
    """The kinds of values on a pickle's stack, tracked without running the pickle.

    Tuples as dict keys are refused: hashing a tuple of deeply shared tuples can take forever.
    """

    def __init__(self) -> None:
        self.kinds: list[Any] = []
        self.memo: dict[int, Any] = {}

    def after(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Track an opcode.

        Raises:
            ArtefactError: For a tuple as a key.
            IndexError: Among others, for data that is not a pickle.
        """
        name, kinds = opcode.name, self.kinds
        if name in PUTS or name == "MEMOIZE":
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = kinds[-1]
        elif name in GETS:
            kinds.append(self.memo[int(argument)])
        elif name == "DUP":
            kinds.append(kinds[-1])
        elif name == "POP":
            kinds.pop()
        else:
            popped = self._pop(opcode.stack_before)
            keys = {"SETITEM": popped[1:2], "SETITEMS": popped[1::2], "DICT": popped[::2]}.get(name, [])
            if pickletools.pytuple in keys:
                raise ArtefactError("must hold plain data (got a tuple as a key)")
            kinds += popped[:1] if name in ("BUILD", "APPEND", "APPENDS") else opcode.stack_after

    def _pop(self, before: list[Any]) -> list[Any]:
        """The kinds that an opcode pops from the stack, lowest first, without the mark."""
        kinds, marked = self.kinds, pickletools.markobject in before
        below = before.index(pickletools.markobject) if marked else len(before)
        at = len(kinds) - 1 - kinds[::-1].index(pickletools.markobject) if marked else len(kinds)
        if below > at:
            raise IndexError("the stack is empty")
        popped = [*kinds[at - below : at], *kinds[at + 1 :]]
        del kinds[at - below :]
        return popped


class _Named:
    """Placeholder for a name in a pickle: it can be called or passed on, and has no state to change."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ArtefactError(f"must hold plain data, but it sets {name!r}")

    def __setstate__(self, state: Any) -> None:
        raise ArtefactError("must hold plain data, but it changes a named object")


class _Type:
    """A numpy type of number, by its name."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any, *flags: Any) -> None:
        if not isinstance(name, str) or name.lstrip("<>|=") not in NUMBERS:
            raise ArtefactError(f"must hold arrays of numbers (got type {truncate_repr(name, SHOWN)})")
        self.name, self.order = name.lstrip("<>|="), name[0] if name[0] in "<>" else "="

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) > 4 and state[1] in ("<", ">", "|", "=")):
            raise ArtefactError("must hold arrays of numbers (got a custom type)")
        if any(part is not None for part in state[2:5]):
            raise ArtefactError("must hold arrays of numbers (got a type with fields)")
        self.order = "=" if state[1] == "|" else state[1]

    @property
    def type(self) -> np.dtype[Any]:
        return np.dtype(("" if self.order == "=" else self.order) + self.name)


class _Array:
    """The bytes, type and shape of an array, before it is made."""

    __slots__ = ("data", "fortran", "shape", "type")

    def __init__(self) -> None:
        self.data: Any = b""
        self.type: Any = None
        self.shape: Any = (0,)
        self.fortran: Any = False

    def __setstate__(self, state: Any) -> None:
        self.shape, self.type, self.fortran, self.data = state[-4:]

    def array(self) -> np.ndarray[Any, Any]:
        if not isinstance(self.type, _Type) or not isinstance(self.data, bytes | bytearray):
            raise ArtefactError("must hold arrays of numbers (got an array of something else)")
        kind, shape = self.type.type, tuple(self.shape)
        if not all(isinstance(n, int) and n >= 0 for n in shape) or math.prod(shape) * kind.itemsize != len(self.data):
            shown = f"{truncate_repr(shape, SHOWN)} of {len(self.data)} bytes"
            raise ArtefactError(f"must hold arrays whose shape matches their bytes (got {shown})")
        return np.frombuffer(bytes(self.data), kind).reshape(shape, order="F" if self.fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not NAMES["numpy", "ndarray"]:
        raise ArtefactError("must hold plain arrays (got another kind of array)")
    return _Array()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((shape, kind, order == "F", data))
    return array


def _scalar(kind: Any, data: Any) -> Any:
    array = _Array()
    array.__setstate__(((), kind, False, data.encode("latin1") if isinstance(data, str) else data))
    return array.array().item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ArtefactError("must hold plain data, but it encodes something other than text")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _refused(*arguments: Any) -> Any:
    raise ArtefactError("must hold plain arrays, but it creates one by another function")


NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

NAMES: dict[tuple[str, str], _Named] = {
    ("numpy", "ndarray"): _Named(_refused),
    ("numpy", "dtype"): _Named(_Type),
    ("_codecs", "encode"): _Named(_encode),
    ("builtins", "bytes"): _Named(_no_bytes),
    ("__builtin__", "bytes"): _Named(_no_bytes),
}
for _package in ("numpy.core", "numpy._core"):
    NAMES[f"{_package}.multiarray", "_reconstruct"] = _Named(_reconstruct)
    NAMES[f"{_package}.multiarray", "scalar"] = _Named(_scalar)
    NAMES[f"{_package}.numeric", "_frombuffer"] = _Named(_from_buffer)


class _Loader(pickle.Unpickler):
    """Resolves names to placeholders only."""

    def find_class(self, module: str, name: str) -> Any:
        """The placeholder for a numpy name. Raises ArtefactError for any other name."""
        placeholder = NAMES.get((module, name))
        if placeholder is None:
            raise ArtefactError(f"must hold plain data, but it asks for {brief(f'{module}.{name}', 150)}")
        return placeholder


class _Plain:
    """Converts loaded values to plain values, each part once, however often it is referenced."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.backing_arrays: list[Any] = []

    def of(self, value: Any, depth: int) -> Any:
        """The plain value. Raises ArtefactError for a value that is not data, or that contains itself."""
        if isinstance(value, str | bool | int | float):
            return value
        if id(value) in self.made:
            return self.made[id(value)]
        if depth > DEEPEST:
            raise ArtefactError(
                f"must be at most {DEEPEST} lists deep (got a deeper list, or one that contains itself)"
            )
        self.backing_arrays.append(value)  # an id is valid only while its object lives
        self.made[id(value)] = made = self._made(value, depth + 1)
        return made

    def _made(self, value: Any, depth: int) -> Any:
        if isinstance(value, _Array):
            return value.array()
        if isinstance(value, _Type):
            return value.type
        if isinstance(value, list | tuple):
            return type(value)(self.of(one, depth) for one in value)
        if isinstance(value, dict):
            return {self._key(key): self.of(one, depth) for key, one in value.items()}
        raise ArtefactError(f"must hold plain data (got {type(value).__name__})")

    def _key(self, key: Any) -> Any:
        if not isinstance(key, str | int | float):
            raise ArtefactError(f"must have keys of text or numbers (got {type(key).__name__})")
        return key
