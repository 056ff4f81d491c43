"""Find the differences between two trees of plain values (dicts, lists, numbers, texts)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tsa.text import truncate_repr

SHOWN = 100
"""Largest number of characters of a value in a difference; a hash has 64."""
SHORT, MOST_KEYS = 24, 12
"""Largest number of characters of a value, and of keys, in `differing_keys`."""


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


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The keys whose values differ, with the values if they are short: `name ('demo', 'eu'), history, label.column`."""
    keys = list(dict.fromkeys(_keys(one, other)))
    more = [f"and {len(keys) - MOST_KEYS} more"] if len(keys) > MOST_KEYS else []
    return ", ".join([*keys[:MOST_KEYS], *more])


def _keys(one: Any, other: Any, place: str = "") -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            yield from _keys(one.get(key), other.get(key), f"{place}.{key}" if place else str(key))
    elif one != other:
        shown = [repr(value) if isinstance(value, str | int | float) else "none" for value in (one, other)]
        is_short = not any(isinstance(value, Mapping | list) for value in (one, other))
        is_short = is_short and max(map(len, shown)) <= SHORT
        yield f"{place} ({', '.join(shown)})" if is_short else place
