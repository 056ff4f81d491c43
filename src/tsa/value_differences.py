"""Find the differences between two trees of plain values (dicts, lists, numbers, texts)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tsa.text import truncate_repr

SHOWN = 100
"""Largest number of characters of a value in a difference; a hash has 64."""
MAX_SHORT, MAX_KEYS = 24, 12
"""Largest number of characters of a value, and of keys, in `differing_keys`."""


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """The differences between two trees, one line each: `a.b.0: 1, 2`. A missing key equals a key with the value None.

    Lists of equal length are compared item by item; lists of different length are one difference.
    """
    for at, *values in _differing(one, other, place, into_lists=True):
        yield f"{at}: {', '.join(truncate_repr(value, SHOWN) for value in values)}"


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The keys whose values differ, with the values if they are short: `name ('demo', 'eu'), history, label.column`."""
    keys = [_with_values(place, values) for place, *values in _differing(one, other, "", into_lists=False)]
    more = [f"and {len(keys) - MAX_KEYS} more"] if len(keys) > MAX_KEYS else []
    return ", ".join([*keys[:MAX_KEYS], *more])


def _differing(one: Any, other: Any, place: str, *, into_lists: bool) -> Iterator[tuple[str, Any, Any]]:
    """The place of each difference, and the values there."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            within = f"{place}.{key}" if place else str(key)
            yield from _differing(one.get(key), other.get(key), within, into_lists=into_lists)
    elif into_lists and isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, f"{place}.{at}" if place else str(at), into_lists=True)
    elif one != other:
        yield place, one, other


def _with_values(place: str, values: Sequence[Any]) -> str:
    shown = ["none" if value is None else repr(value) for value in values]
    is_short = not any(isinstance(value, Mapping | list) for value in values) and max(map(len, shown)) <= MAX_SHORT
    return f"{place} ({', '.join(shown)})" if is_short else place
