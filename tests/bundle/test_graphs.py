"""Graphs hold all that they need; and nothing is reported to the maker of what runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tsa.bundle.bundle import Bundle
from tsa.bundle.graphs import refuse_outside
from tsa.errors import BundleError
from tsa.inference.engine import OnnxEngine

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def model(nodes: list[Any] = (), tensors: list[Any] = (), **more: Any) -> Any:  # type: ignore[assignment]
    """A sound model that adds a constant."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    one = helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])
    nodes = [helper.make_node("Add", ["x", "one"], ["y"]), *nodes]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], [one, *tensors]), ir_version=8, **more)


def outside() -> Any:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def located() -> Any:
    """It says so and names no file."""
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


def sparse() -> Any:
    made = model()
    found = made.graph.sparse_initializer.add(dims=[4])
    found.values.CopyFrom(outside())
    return made


def in_a_function() -> Any:
    made = model()
    function = made.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["c"], value=outside()))
    return made


def in_a_branch() -> Any:
    node = helper.make_node("Constant", [], ["c"], value=outside())
    branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [4])])
    return model([helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)])


OUTSIDE: dict[str, Callable[[], Any]] = {
    "tensor": lambda: model(tensors=[outside()]),
    "no file named": lambda: model(tensors=[located()]),
    "constant": lambda: model([helper.make_node("Constant", [], ["c"], value=outside())]),
    "list of tensors": lambda: model([helper.make_node("Odd", [], ["c"], values=[outside()])]),
    "branch": in_a_branch,
    "function": in_a_function,
    "sparse": sparse,
    "context": lambda: model([helper.make_node("EPContext", [], ["c"], domain="com.microsoft")]),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_a_graph_that_needs_other_files_is_refused(demo_run: Path, tmp_path: Path, kind: str) -> None:
    graph = OUTSIDE[kind]().SerializeToString()
    refuse_outside(model().SerializeToString(), "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx must contain all its data"):
        refuse_outside(graph, "model.onnx")
    with pytest.raises(BundleError, match="must contain all its data"):
        OnnxEngine(graph)
    replace(Bundle.open(demo_run / "bundle"), graphs={"float32": graph}).save(tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"model\.onnx must contain all its data"):
        Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize(
    "data", [b"", b"ORTM1234", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\x08\x08", b"\x0b", b"\x00\x00"]
)
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="must be an ONNX graph"):
        refuse_outside(data, "model.onnx")


def test_messages_within_one_another_have_an_end() -> None:
    data = b""
    for _ in range(150):  # a graph in an attribute of a node of a graph
        attribute = b"\x32" + varint(len(data)) + data
        node = b"\x2a" + varint(len(attribute)) + attribute
        data = b"\x0a" + varint(len(node)) + node
    with pytest.raises(BundleError, match="must be an ONNX graph"):
        refuse_outside(b"\x3a" + varint(len(data)) + data, "model.onnx")


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


QUIET = """
import os, sys
{first}
import tsa.inference.onnx_runtime as runtime
session = runtime.onnx_runtime().InferenceSession(open(sys.argv[1], "rb").read(), providers=["CPUExecutionProvider"])
session.run(None, {{"x": __import__("numpy").ones(1, "float32")}})
"""


@pytest.mark.parametrize(
    "first", ["", "import tsa; import onnxruntime", "os.environ['X'] = '1'; import tsa.serving.server"]
)
def test_nothing_is_reported(tmp_path: Path, first: str) -> None:
    """No file is written and no name is looked up, whatever imports it, in an environment that says nothing about it."""
    (tmp_path / "model.onnx").write_bytes(model().SerializeToString())
    (tmp_path / "home").mkdir()
    hidden = ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "XDG_CACHE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "home")}
    command = [sys.executable, "-c", QUIET.format(first=first), tmp_path / "model.onnx"]
    if traced := shutil.which("strace"):
        command = [traced, "-f", "-qq", "-e", "trace=connect,sendto,sendmmsg", "-o", tmp_path / "calls", *command]
    subprocess.run(command, env=env, check=True)
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []
    if traced:
        calls = (tmp_path / "calls").read_text()
        assert not re.search(r"htons\(53\)|htons\(443\)|AF_INET", calls), calls


def test_one_place_imports_the_runtime() -> None:
    """And the package sets the variable before anything of it is imported."""
    source = Path(__file__).parents[2] / "src" / "tsa"
    pattern = re.compile(r"^\s*(import onnxruntime|from onnxruntime)", re.MULTILINE)
    found = [path.relative_to(source) for path in source.rglob("*.py") if pattern.search(path.read_text())]
    assert found == [Path("inference/onnx_runtime.py")]
    names = ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
    code = f"import tsa, os; print(*[os.environ[name] for name in {names}])"
    env = {**os.environ, **dict(zip(names, ("0", "false", "1"), strict=True))}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "true", "0"]
