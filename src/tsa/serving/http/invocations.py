"""Bodies and answers of /invocations: JSON, JSON lines, CSV or Parquet in; JSON, JSON lines or CSV out.

A model that was imported answers in the legacy system's shape, word for word. It knows no server and not how payments are scored:
the route and SageMaker's inference toolkit both come through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tsa.calibration.calibration import Calibration
from tsa.data.online.payments import RuleViolation
from tsa.legacy.response import legacy_response
from tsa.serving import formats
from tsa.serving.formats import CSV, JSON, JSON_LINES, PARQUET, RequestRows
from tsa.serving.results import ScoreResult

READ, WRITTEN = (JSON, JSON_LINES, CSV, PARQUET), (JSON, JSON_LINES, CSV)
"""Formats of bodies and of answers."""
PROBLEM = "problem"
COLUMNS = ("id", "raw_score", "percentile", "probability", "decision", "version", PROBLEM)
PREDICTIONS = "predictions"
INSTANCES = "instances"
"""Some clients put their list under this name."""


def rows_of(body: bytes, kind: str, max_list: int, max_bytes: int) -> RequestRows:
    """The rows of a body, those of `{"instances": […]}` too. ProblemError as of `formats.read`."""
    found = formats.read(body, kind, max_list, max_bytes)
    row = found.rows[0]
    if not (found.single and isinstance(row, dict) and set(row) == {INSTANCES} and isinstance(row[INSTANCES], list)):
        return found
    return formats.check_row_count(RequestRows(row[INSTANCES], single=False), max_list)


def response_format(header: str | None, kind: str, *, imported: bool) -> str:
    """The format of the answer to a body of `kind`, by the Accept header. ProblemError where it allows none."""
    default = JSON_LINES if kind == JSON_LINES else CSV if kind == CSV and not imported else JSON
    return formats.negotiate(header, WRITTEN, default=default)


def to_legacy_format(
    calibration: Calibration, results: Sequence[ScoreResult | RuleViolation], documents: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The same scores as the legacy system spells them; problems stay."""
    raw = [result.raw_score for result in results if isinstance(result, ScoreResult)]
    said = iter(legacy_response(raw, calibration)[PREDICTIONS] if raw else ())
    return [
        next(said) if isinstance(result, ScoreResult) else found
        for result, found in zip(results, documents, strict=True)
    ]


def serialize(out: str, documents: Sequence[dict[str, Any]]) -> tuple[bytes, str]:
    """The answer in the format `out`, and its media type."""
    if out == JSON_LINES:
        return formats.to_json_lines(documents), JSON_LINES
    if out == CSV:
        imported = next((found for found in documents if "raw_score" not in found and PROBLEM not in found), None)
        columns = COLUMNS if imported is None else tuple(imported)
        if PROBLEM not in columns and any(PROBLEM in found for found in documents):
            columns = (*columns, PROBLEM)
        return formats.to_csv(documents, columns, _cell), "text/csv; charset=utf-8"
    return orjson.dumps({PREDICTIONS: documents}), JSON


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value['rule']}: {value['detail']}" if isinstance(value, dict) else str(value)
