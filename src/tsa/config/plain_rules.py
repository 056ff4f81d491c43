"""Pydantic's errors in plain words: what a value must be, and the place of a key by the names of tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tsa.text import brief

Place = tuple[str | int, ...]

NUMBER, INTEGER, TRUE, TEXT, LIST = (
    "must be a number",
    "must be a whole number",
    "must be true or false",
    "must be a text in quotes",
    'must be a list, such as ["a", "b"]',
)
TIME = "must be a date, such as 2025-01-31, or a time, such as 2025-01-31T12:00:00Z"
RULES: dict[str, str] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), INTEGER),
    **dict.fromkeys(("float_type", "float_parsing"), NUMBER),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), TRUE),
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), TEXT),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"), LIST),
    "path_type": "must be a path",
}
"""By the type of the error."""
TIMES = ("date_", "datetime_", "time_", "timezone_")
TABLES = ("dict_type", "model_type", "model_attributes_type", "dataclass_type", "mapping_type")
LIMITS: dict[str, tuple[str, str]] = {
    "greater_than": ("must be above {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be below {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
    "string_too_short": ("must have at least {} characters", "min_length"),
    "string_too_long": ("must have at most {} characters", "max_length"),
    "too_short": ("must have at least {} entries", "min_length"),
    "too_long": ("must have at most {} entries", "max_length"),
    "string_pattern_mismatch": ("must match {}", "pattern"),
}
"""The rule with the name of its number."""
RANGE_ENDS = ("start", "end")


def plain_rule(detail: Mapping[str, Any]) -> str:
    """What the value must be, from one of the dicts of `ValidationError.errors()`: `must be a whole number`."""
    kind, context = str(detail["type"]), detail.get("ctx", {})
    if kind in RULES:
        return RULES[kind]
    if kind.startswith(TIMES):
        return TIME
    if kind in TABLES:
        names = [str(part) for part in detail["loc"] if isinstance(part, str)]
        return f"must be a table, [{brief('.'.join(names))}]" if names else "must be a table"
    if kind in LIMITS:
        text, name = LIMITS[kind]
        limit = context[name]
        return text.format(f"{limit:g}" if isinstance(limit, float) else limit)
    if kind in ("literal_error", "enum"):
        return f"must be {re.sub(chr(39), '', str(context['expected']))}"
    return re.sub(r"^\w+ should", "must", str(detail["msg"])).replace(" after validation, not", ", not")


def place_in_words(place: Place, value_at: Callable[[Place], Any], spans: Sequence[str] = ()) -> str:
    """The place of a value: `label.delay_days`, `[[history]] 'customer': length`, `split.train, start`.

    Args:
        place: Keys, and positions in arrays.
        value_at: Returns what is at a place; None for nothing.
        spans: Keys of pairs of a start and an end.
    """
    text, separator = "", "."
    for at, part in enumerate(place):
        if isinstance(part, str):
            text = f"{text}{separator}{brief(part)}" if text else brief(part)
            separator = "."
            continue
        item = value_at(place[: at + 1])
        name = item.get("name") if isinstance(item, dict) else item if at + 1 < len(place) else None
        if isinstance(name, str) and at > 0:
            text, separator = f"[[{text}]] {brief(name)!r}", ": "
        elif at > 0 and place[at - 1] in spans and part < len(RANGE_ENDS):
            text, separator = f"{text}, {RANGE_ENDS[part]}", ", "
        else:
            text, separator = f"{text}, entry {part + 1}" if text else f"entry {part + 1}", ", "
    return text
