"""A tree of plain values, arrays and tensors, as JSON and a flat table of tensors, and back to the bit. No pickle.

Knows dicts with any plain keys, lists, tuples, None, truth values, whole numbers, floats, texts, numpy arrays and tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]
PLAIN = (str, bool, int, float, type(None))


def pack(value: Any, tensors: Tensors, place: str = "") -> Any:
    """`value` as JSON can hold it; its tensors and arrays go into `tensors`, named by where they stand."""
    name = f"{len(tensors)} {place}"  # the number makes it one of its own, whatever keys hold
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        # not shared: an array may be a read-only map of a file
        tensors[name] = torch.from_numpy(np.array(value))
        return {"array": name}
    if isinstance(value, dict):
        return {
            "dict": [
                [pack(k, tensors), pack(v, tensors, f"{place}.{k}" if place else str(k))] for k, v in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, tensors, f"{place}.{at}") for at, item in enumerate(value)]}
    if isinstance(value, PLAIN):
        return value
    raise TypeError(f"{place} must be plain, a tensor or an array, however: {type(value).__name__}")


def unpack(value: Any, tensors: Tensors) -> Any:
    """What `pack` packed. Tensors are copies: in aligned memory of their own."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner].clone()
    if kind == "array":
        return tensors[inner].clone().numpy()
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in inner}
    items = [unpack(item, tensors) for item in inner]
    return items if kind == "list" else tuple(items)
