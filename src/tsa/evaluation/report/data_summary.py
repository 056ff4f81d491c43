"""The report's summary of the data (what happened to each row that was read) and its settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Dict = Mapping[str, Any]

_SHOWN = {
    *("rows_read", "rows_kept", "rows_excluded", "rows_replaced", "rows_quarantined", "by_rule"),
    *("frauds_quarantined", "frauds_by_rule", "labels", "splits", "notes"),
}


def summarize_data(data: Dict) -> dict[str, Any]:
    """Rows read and what happened to them, the splits, and further entries of the data report.

    `rows` is a list of {name, n, share, level}: level 0 for rows read, 1 for their parts, 2 for parts of these.
    `notes`: (column, remark). `balanced`: whether the parts add up; None if the report does not contain enough.
    """
    splits = {name: split for name, split in (data.get("splits") or {}).items() if isinstance(split, Mapping)}
    return {
        "rows": list(_rows(data, splits)),
        "balanced": _balanced(data, splits),
        "splits": [{"name": name} | dict(split) for name, split in splits.items()],
        "labels": list((data.get("labels") or {}).items()),
        "notes": [(note["column"], note["text"]) for note in data.get("notes") or []],
        "rest": list(flat({key: value for key, value in data.items() if key not in _SHOWN})),
    }


def _rows(data: Dict, splits: Dict) -> Iterator[dict[str, Any]]:
    read = data.get("rows_read")
    if read is None:
        return

    def row(name: str, n: int, level: int) -> dict[str, Any]:
        return {"name": name, "n": n, "share": n / read if read else None, "level": level}

    yield row("read", read, 0)
    yield row("quarantined as unusable", data.get("rows_quarantined") or 0, 1)
    frauds = data.get("frauds_by_rule") or {}
    for rule, n in (data.get("by_rule") or {}).items():
        fraud = f", {frauds[rule]:,} of them fraud" if frauds.get(rule) else ""
        yield row(f"{rule} (a row may break several rules{fraud})", n, 2)
    if replaced := data.get("rows_replaced"):
        yield row("replaced by a later row of the same payment", replaced, 1)
    yield row("excluded by the market file", data.get("rows_excluded") or 0, 1)
    rows_kept = data.get("rows_kept")
    if rows_kept is None:
        return
    yield row("used", rows_kept, 1)
    for name, split in splits.items():
        yield row(f"{name}, outcome known", split.get("n") or 0, 2)
    if splits:
        yield row("histories only: outside these ranges, or outcome not known", rows_kept - _in_splits(splits), 2)


def _in_splits(splits: Dict) -> int:
    return sum(split.get("n") or 0 for split in splits.values())


def _balanced(data: Dict, splits: Dict) -> bool | None:
    read, rows_kept = data.get("rows_read"), data.get("rows_kept")
    if read is None or rows_kept is None:
        return None
    parts = rows_kept + sum(data.get(name) or 0 for name in ("rows_excluded", "rows_replaced", "rows_quarantined"))
    return bool(read == parts and _in_splits(splits) <= rows_kept)


def settings(report: Dict) -> list[dict[str, Any]]:
    """Named groups of (dotted key, value as JSON): everything needed to reproduce the report."""
    groups = {
        "Model and training": report.get("model"),
        "Market": report.get("market"),
        "Evaluation": (report["evaluation"].get("settings") or {}) | {"threshold": report["evaluation"]["threshold"]},
        "Comparison": {
            key: (report.get("comparison") or {}).get(key) for key in ("model_name", "note", "params", "seconds")
        },
        "Environment": report.get("environment"),
    }
    return [{"name": name, "rows": rows} for name, group in groups.items() if (rows := list(flat(group or {})))]


def flat(value: Dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested dicts as (dotted key, text), except None; lists are not split."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from flat(item, f"{prefix}{key}.")
        elif item is not None:
            yield f"{prefix}{key}", item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
