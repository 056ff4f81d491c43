"""Payments as programs hold them, made into what JSON can carry: times, NumPy scalars, decimals, missing values.

No library of theirs is imported: their values are known by what they offer. What cannot be carried is a Problem of that
payment, in the endpoint's own form and rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from tsa_client.answers import Problem

LARGEST_EXACT = 2**53
"""Whole numbers from here on are written as texts: JSON's readers may round them."""
DEEPEST = 32
STATUS = 422


class _UnsendableError(Exception):
    """A value cannot be carried: rule, rest of the sentence, value as it is shown."""

    def __init__(self, rule: str, text: str, value: object) -> None:
        super().__init__(rule)
        self.rule, self.text, self.value = rule, text, value


def sendable(payment: object) -> dict[str, Any] | Problem:
    """The payment as JSON can carry it, or what is wrong with it. Never raises.

    Missing values (None, NaN, NaT, NA) become null. Times become ISO texts: those without a time zone are read as UTC by
    the endpoint. Decimals become numbers where that is exact, else texts. Bytes are read as UTF-8.
    """
    try:
        fields = {} if isinstance(payment, str | bytes) else dict(payment)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        fields = {}
    if not fields and not isinstance(payment, Mapping):
        return _problem("payment", "not_an_object", "must be a mapping of the market's columns", type(payment).__name__)
    found: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            found[_name(name)] = _carried(value, 0)
        except _UnsendableError as wrong:
            return _problem(_shown(name), wrong.rule, wrong.text, wrong.value)
        except Exception as error:  # whatever a value's own methods raise, it costs this payment alone
            return _problem(
                _shown(name), "not_sendable", f"cannot be read ({type(error).__name__})", type(value).__name__
            )
    return found


def scalar(value: object, name: str) -> Any:
    """One value as JSON can carry it, or a Problem."""
    found = sendable({name: value})
    return found if isinstance(found, Problem) else found[name]


def rows_of(payments: Any) -> list[Any]:
    """The payments of a list, or the rows of a Polars or pandas frame."""
    if hasattr(payments, "to_dicts"):
        return list(payments.to_dicts())
    if hasattr(payments, "iterrows"):
        return list(payments.to_dict("records"))
    if isinstance(payments, Mapping | str | bytes) or not isinstance(payments, Iterable):
        raise TypeError(f"payments must be a list of payments or a data frame (got {type(payments).__name__})")
    return list(payments)


def _carried(value: Any, depth: int) -> Any:
    """A value as JSON has it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _carried(value.value, depth)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value) if abs(value) < LARGEST_EXACT else str(int(value))
    if isinstance(value, float):
        return _number(float(value), value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, date):
        return None if value != value else _moment(value)  # NaT is unlike itself
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(bytes(value))
    if isinstance(value, Mapping):
        return {_name(name): _carried(inner, _deeper(depth)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_carried(inner, _deeper(depth)) for inner in value]
    return _foreign(value, depth)


def _foreign(value: Any, depth: int) -> Any:
    """A value of NumPy, pandas or Polars, by what it offers."""
    kind = type(value).__name__
    if kind in ("NaTType", "NAType"):
        return None
    if kind == "datetime64":
        return _carried(value.astype("datetime64[us]").item(), depth)
    for offered in ("to_list", "tolist"):
        if getattr(value, "shape", None) not in (None, ()) and hasattr(value, offered):
            return [_carried(inner, _deeper(depth)) for inner in getattr(value, offered)()]
    if hasattr(value, "item") and hasattr(value, "dtype"):
        found = value.item()
        if type(found) is not type(value):
            return _carried(found, depth)
    raise _UnsendableError("not_sendable", "must be a text, a number, a time, true, false or missing", kind)


def _number(number: float, value: object) -> float | None:
    if math.isinf(number):
        raise _UnsendableError("infinite", "must be finite", value)
    return None if math.isnan(number) else number


def _decimal(value: Decimal) -> float | int | str | None:
    """Exact: as a number where a float holds it or spells it the same, else as a text."""
    if value.is_nan():
        return None
    if value.is_infinite():
        raise _UnsendableError("infinite", "must be finite", value)
    number = float(value)
    if Decimal(repr(number)) != value or abs(number) >= LARGEST_EXACT:
        return format(value, "f")
    return int(value) if value == value.to_integral_value() else number


def _moment(value: date) -> str:
    """In ISO spelling, to the microsecond: pandas' own has nanoseconds."""
    return datetime.isoformat(value) if isinstance(value, datetime) else value.isoformat()


def _decoded(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise _UnsendableError("not_a_text", "must be UTF-8 where it is bytes", value[:20]) from None


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _UnsendableError("not_a_text", "must hold whole characters, no surrogates", value) from None
    return str(value)


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise _UnsendableError("not_an_object", "must be named by a text", name)
    return _text(name)


def _deeper(depth: int) -> int:
    if depth >= DEEPEST:
        raise _UnsendableError("too_deep", f"must not be nested deeper than {DEEPEST}", "…")
    return depth + 1


def _problem(field: str, rule: str, text: str, value: object) -> Problem:
    detail = f"{field} {text}"
    return Problem(status=STATUS, rule=rule, detail=detail, field=field, value=_shown(value), request_id=None)


def _shown(value: object) -> str:
    """Short, and in one line of ASCII whatever it is."""
    text = value if isinstance(value, str) else repr(value)
    return json.dumps(text[:60])[1:-1]
