"""Find the differences between two trees of plain values (dicts, lists, numbers, texts)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tsa.text import truncate_repr

SHOWN = 100
"""Most characters of a value in a difference; a hash has 64."""


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """The differences between two trees, one line each: `a.b.0: 1, 2`. A missing key equals a key with the value None.

    Lists of equal length are compared item by item; lists of different length are one difference.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            yield from differences(one.get(key), other.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}.{at}" if place else str(at))
    elif one != other:
        yield f"{place}: {truncate_repr(one, SHOWN)}, {truncate_repr(other, SHOWN)}"
