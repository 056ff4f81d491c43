"""Plain data come out of a pickle as they went in; anything else is refused before it can do a thing."""

from __future__ import annotations

import builtins
import copyreg
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsa.errors import ArtefactError
from tsa.legacy.safe_pickle import load_pickle, read_pickle, write_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

scalars = st.one_of(st.text(max_size=5), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.booleans())
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_come_back(value: Any, protocol: int) -> None:
    assert load_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("type_", ["<f8", ">f8", "<f4", "<i8", "u1", ">i2", "b1"])
def test_arrays_of_numbers_come_back(protocol: int, type_: str) -> None:
    whole = np.arange(12).astype(type_)
    for array in (whole, whole.reshape(3, 4), np.asfortranarray(whole.reshape(3, 4)), whole[:0], whole[::2], whole[5]):
        back = load_pickle(pickle.dumps(array, protocol))
        np.testing.assert_array_equal(back, array)
        if array.shape:
            assert (back.dtype, back.shape) == (array.dtype, array.shape)
    shared = load_pickle(pickle.dumps([whole, whole, {"a": whole}], protocol))
    assert shared[0] is shared[1] is shared[2]["a"]


def test_names_of_older_numpy() -> None:
    """Pickles of before numpy 2 say numpy.core, those of today numpy._core."""
    for protocol in PROTOCOLS:
        today = pickle.dumps({"a": np.arange(3.0), "b": np.float32(0.5)}, protocol)
        older = today.replace(b"numpy._core", b"numpy.core")
        if protocol >= 4:  # there the length of a text stands before it, and that of the whole frame
            older = older.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
            older = older.replace(b"\x8c\x13numpy.core", b"\x8c\x12numpy.core")
            older = older[:3] + struct.pack("<Q", len(older) - 11) + older[11:]
        assert older != today
        back = load_pickle(older)
        assert back["a"].tolist() == [0, 1, 2]
        assert back["b"] == 0.5


def test_what_is_written_is_plain(tmp_path: Path) -> None:
    pairs = [[0.1, 0.0], [0.25, 0.001]]
    write_pickle(tmp_path / "p.pkl", pairs)
    assert pickle.loads((tmp_path / "p.pkl").read_bytes()) == read_pickle(tmp_path / "p.pkl") == pairs


class Calls:
    """What a hostile author writes: loading calls `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def smuggled(mark: Path) -> dict[str, Any]:
    """Objects that, loaded by pickle itself, make the file `mark`."""
    command = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w').close()"
    system = Calls(os.system, command)
    objects = np.empty(1, object)
    objects[0] = system
    return {
        "os.system": system,
        "eval": Calls(eval, f"__import__('os').system({command!r})"),
        "exec": Calls(exec, code),
        "getattr chain": Calls(getattr, Calls(__import__, "os"), "system"),
        "subprocess": Calls(subprocess.call, ["touch", str(mark)]),
        "open": Calls(open, str(mark), "w"),
        "in a list": [1, [2, [system]]],
        "as a value": {"seq_num_scale_": system},
        "as a key": {(1, 2): 1, "a": system},
        "in a tuple": (1.0, system),
        "array of objects": objects,
        "array of objects in a dict": {"seq_num_min_": objects},
        "copyreg": Calls(copyreg._reconstructor, OrderedDict, object, None),
        "a class": OrderedDict(a=1),
        "an instance": datetime(2020, 1, 1),
        "partial": Calls(map, eval, [code]),
        "numpy's own": Calls(np.load, str(mark)),
        "numpy runs": Calls(np.fromfunction, eval, (1,)),
        "import": Calls(__import__, "antigravity"),
        "type": Calls(type, "T", (), {}),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", smuggled(Path("x")))
def test_calls_are_refused_and_not_made(case: str, protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    data = pickle.dumps(smuggled(mark)[case], protocol)
    with pytest.raises(ArtefactError, match=r"must hold|cannot be read"):
        load_pickle(data)
    assert not mark.exists()
    assert "antigravity" not in sys.modules


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    """A name taken from two texts on the stack."""
    return text(module) + text(name) + b"\x93"


ARRAY = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
DTYPE = (
    named("numpy", "dtype")
    + text("f8")
    + b"\x89\x88\x87R(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
HANDMADE = {
    "old-style name": b"cos\nsystem\n(S'true'\ntR.",
    "name from the stack": b"\x80\x04" + named("os", "system") + text("true") + b"\x85R.",
    "name in parts": b"\x80\x04"
    + named("builtins", "getattr")
    + named("builtins", "eval")
    + text("__call__")
    + b"\x86R.",
    "dotted name": b"\x80\x04" + named("numpy", "ndarray.__class__") + b".",
    "dotted module": b"\x80\x04" + named("numpy.os", "system") + b".",
    "name from memo": b"\x80\x04"
    + text("os")
    + b"\x940"
    + text("system")
    + b"\x940h\x00h\x01\x93"
    + text("true")
    + b"\x85R.",
    "instance": b"(S'true'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'true'\no.",
    "new object": b"\x80\x04" + named("numpy", "dtype") + b")\x81.",
    "new object with keywords": b"\x80\x04" + named("numpy", "dtype") + b")}\x92.",
    "persistent id": b"Psomething\n.",
    "binary persistent id": b"\x80\x04K\x01Q.",
    "extension": b"\x80\x04\x82\x01.",
    "wide extension": b"\x80\x04\x84\x01\x00\x00\x00.",
    "buffer from outside": b"\x80\x05\x97.",
    "set": b"\x80\x04\x8f(K\x01\x90.",
    "frozenset": b"\x80\x04(K\x01\x91.",
    "call of a number": b"\x80\x04K\x05)R.",
    "call of a text": b"\x80\x04" + text("os") + b")R.",
    "state for a function": b"\x80\x04" + named("_codecs", "encode") + b"}" + text("__defaults__") + b"K\x01sb.",
    "slots for a function": b"\x80\x04" + named("_codecs", "encode") + b"N}" + text("_call") + b"K\x01s\x86b.",
    "slots for a type": b"\x80\x04" + DTYPE + b"N}" + text("name") + text("O") + b"s\x86b.",
    "state for a list": b"\x80\x04]}" + text("append") + b"K\x01sb.",
    "state for an array": b"\x80\x04" + ARRAY + b"}b.",
    "another kind of array": b"\x80\x04"
    + named("numpy._core.multiarray", "_reconstruct")
    + named("numpy", "dtype")
    + b"K\x00\x85C\x01b\x87R.",
    "ndarray itself": b"\x80\x04" + named("numpy", "ndarray") + b"J\xff\xff\xff\x7f\x85\x85R.",
    "array of a function": b"\x80\x04"
    + named("numpy._core.numeric", "_frombuffer")
    + b"(C\x01x"
    + named("_codecs", "encode")
    + b"K\x01\x85"
    + text("C")
    + b"tR.",
    "larger than its bytes": b"\x80\x04"
    + ARRAY
    + b"(K\x01J\xff\xff\xff\x7f\x85"
    + DTYPE
    + b"\x89C\x08\0\0\0\0\0\0\0\0tb.",
    "negative size": b"\x80\x04" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89C\x08\0\0\0\0\0\0\0\0tb.",
    "objects in raw bytes": b"\x80\x04"
    + named("numpy._core.multiarray", "scalar")
    + named("numpy", "dtype")
    + text("O8")
    + b"\x89\x88\x87RC\x08\0\0\0\0\0\0\0\0\x86R.",
    "encode with another codec": b"\x80\x04" + named("_codecs", "encode") + text("x") + text("rot13") + b"\x86R.",
    "unhashable key": b"\x80\x04}]K\x01s.",
    "nothing": b"N.",
    "bytes": b"\x80\x04C\x03abc.",
    "empty stack": b"\x80\x04.",
    "no end": b"\x80\x04K\x01",
    "no pickle": b"PK\x03\x04zip",
    "empty file": b"",
    "text": b'{"a": 1}',
}


@pytest.mark.parametrize("case", HANDMADE)
def test_handmade_programs_are_refused(case: str) -> None:
    with pytest.raises(ArtefactError, match=r"must hold|cannot be read"):
        load_pickle(HANDMADE[case])
    arrays = pickle.dumps({"a": np.arange(3.0), "b": np.float64(2)})
    assert load_pickle(arrays)["a"].tolist() == [0, 1, 2], "nothing is left behind for the next one"
    assert load_pickle(arrays)["b"] == 2


def test_names_of_extensions_are_refused_even_where_they_are_known() -> None:
    """The registry of extensions hands out what it holds without asking for its name."""
    copyreg.add_extension("builtins", "eval", 77)
    try:
        assert pickle.loads(pickle.dumps(eval, 2)) is eval, "and now it is cached"
        with pytest.raises(ArtefactError, match="EXT1"):
            load_pickle(b"\x80\x02\x82\x4d.")
    finally:
        copyreg.remove_extension("builtins", "eval", 77)


HUGE = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"K\x01.",
    "memo": b"\x80\x04K\x01r\xff\xff\xff\x7f.",
    "memo as text": b"I1\np99999999999\n.",
    "integer": b"\x80\x04\x8b\xff\xff\xff\x7f\x01.",
    "integer as text": b"L" + b"9" * 100_000 + b"L\n.",
    "array": b"\x80\x04"
    + named("numpy._core.multiarray", "_reconstruct")
    + named("numpy", "ndarray")
    + b"\x8a\x06"
    + b"\xff" * 5
    + b"\x00\x85C\x01b\x87R.",
    "dimensions": b"\x80\x04" + ARRAY + b"(K\x01(" + b"K\x01" * 500 + b"t" + DTYPE + b"\x89C\x08\0\0\0\0\0\0\0\0tb.",
    "depth": b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "doubling": b"\x80\x04]\x94"
    + b"".join(b"]\x94(" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(60))
    + b".",
}


@pytest.mark.parametrize("case", HUGE)
def test_what_is_huge_costs_nothing(case: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError) as error:
            load_pickle(HUGE[case])
        assert tracemalloc.get_traced_memory()[1] < 2**25
        assert len(str(error.value)) < 400
    finally:
        tracemalloc.stop()


def test_lists_that_share_are_made_once() -> None:
    value: Any = [1.0]
    for _ in range(14):
        value = [value, value]
    back = load_pickle(pickle.dumps(value))
    assert back[0] is back[1]


def test_what_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    table: dict[str, Any] = {}
    table["a"] = [table]
    for value in (endless, table, [table]):
        with pytest.raises(ArtefactError, match="contains itself"):
            load_pickle(pickle.dumps(value))


def test_a_large_file_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.pkl"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    monkeypatch.setattr(Path, "read_bytes", lambda self: builtins.exit(1))
    with pytest.raises(ArtefactError, match=r"big\.pkl must have .* bytes at most"):
        read_pickle(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """A pickle with bytes changed gives plain data or a typed error; it never ends in another way."""
    whole = pickle.dumps(
        {"a": np.arange(4.0), "b": [1, 2.5, "x"], "c": np.float32(1)}, data.draw(st.sampled_from(PROTOCOLS))
    )
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ArtefactError):
        load_pickle(bytes(damaged))


def nested(made: type[list[Any]] | type[tuple[Any, ...]]) -> bytes:
    """The opcodes of a value of sixteen levels, each of which holds the next one ten times over: a few hundred bytes."""
    found: Any = made()
    for _ in range(16):
        found = made([found] * 10)
    return pickle.dumps(found, 2)[2:-1]


@pytest.mark.parametrize("form", [b"}@K\x01s", b"}(@K\x01u", b"(@K\x01d", b"}@2K\x01s", b"}@NbK\x01s", b"}@Nh\x000s"])
def test_no_key_is_hashed_that_takes_for_ever(form: bytes) -> None:
    with pytest.raises(ArtefactError, match=r"[(]got a tuple as a key|cannot be read"):
        load_pickle(b"\x80\x02" + form.replace(b"@", nested(tuple)) + b".")


@pytest.mark.parametrize(
    "program",
    [
        b"cnumpy\ndtype\n(@tR",
        b"cnumpy._core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR@X\x01\x00\x00\x00CtR",
    ],
    ids=["type", "shape"],
)
def test_what_is_nested_is_told_of_briefly(program: bytes) -> None:
    with pytest.raises(ArtefactError) as error:
        load_pickle(b"\x80\x04" + program.replace(b"@", nested(tuple)) + b".")
    assert len(str(error.value)) < 300
