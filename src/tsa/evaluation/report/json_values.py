"""Values as plain JSON: numbers of NumPy, tuples, infinite numbers and text that cannot be encoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_plain(value: Any) -> Any:
    """The value in JSON types: str keys, lists, finite numbers; other types as text."""
    if isinstance(value, Mapping):
        return {_clean(str(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return [to_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return _clean(value if isinstance(value, str) else str(value))


def _clean(text: str) -> str:
    """Text without lone surrogates, which cannot be encoded."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
