"""Check that an exported graph is self-contained, so that the hash in the bundle's manifest covers all of it.

ONNX files may refer to tensors in other files by path, and ONNX Runtime follows such paths. This check parses the protocol
buffers without a library and rejects such a graph before anything reads it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tsa.errors import BundleError

MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""By message of onnx.proto: the numbers and kinds of the fields that can contain a tensor, directly or nested."""
EXTERNAL_DATA, DATA_LOCATION, GRAPH, OPERATION = 13, 14, 7, 4
OUTSIDE_OPERATIONS = (b"EPContext",)
"""Operations of ONNX Runtime that read another file."""
DEEPEST = 100
"""Maximum nesting of messages, as in other readers of protocol buffers."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def refuse_outside(graph: bytes, name: str) -> None:
    """Raise BundleError if the bytes are not an ONNX graph, or the graph needs other files."""
    stack, graphs = [("model", 0, len(graph), 0)], 0
    while stack:
        kind, first, end, depth = stack.pop()
        if depth > DEEPEST:
            raise _broken(name)
        for field, wire, start, stop in _fields(graph, first, end, name):
            if kind == "tensor" and (field == EXTERNAL_DATA or (field == DATA_LOCATION and any(graph[start:stop]))):
                raise BundleError(
                    f"{name} must contain all its data (got a tensor in another file); export it into one file"
                )
            if kind == "node" and field == OPERATION and graph[start:stop] in OUTSIDE_OPERATIONS:
                raise BundleError(
                    f"{name} must contain all its data (its operation {graph[start:stop].decode()} reads a file)"
                )
            graphs += kind == "model" and field == GRAPH
            if wire == BYTES and (inner := MESSAGES[kind].get(field)) is not None:
                stack.append((inner, start, stop, depth + 1))
    if not graphs:
        raise _broken(name)


def _fields(data: bytes, at: int, end: int, name: str) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type and position of each field of the message at data[at:end]."""
    while at < end:
        tag, at = _varint(data, at, end, name)
        field, wire = tag >> 3, tag & 7
        start = at
        if wire == VARINT:
            _, at = _varint(data, at, end, name)
        elif wire == BYTES:
            size, start = _varint(data, at, end, name)
            at = start + size
        elif wire in (FIXED64, FIXED32):
            at += 8 if wire == FIXED64 else 4
        else:
            raise _broken(name)
        if at > end or not field:
            raise _broken(name)
        yield field, wire, start, at


def _varint(data: bytes, at: int, end: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise _broken(name)


def _broken(name: str) -> BundleError:
    return BundleError(f"{name} must be an ONNX graph (it cannot be read as one)")
