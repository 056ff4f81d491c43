"""Bodies and answers of /invocations: JSON, JSON lines, CSV or Parquet in; JSON, JSON lines or CSV out.

Shared by the route and SageMaker's inference toolkit. An imported model answers exactly in the legacy system's format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tsa.calibration.calibration import Calibration
from tsa.data.values import RuleViolation
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
"""Some clients send their list under this name."""


def rows_of(body: bytes, kind: str, max_list: int, max_bytes: int) -> RequestRows:
    """Read the rows of a body, also of `{"instances": […]}`. Raises ProblemError as `formats.read` does."""
    request = formats.read(body, kind, max_list, max_bytes)
    row = request.rows[0]
    if not (request.single and isinstance(row, dict) and set(row) == {INSTANCES} and isinstance(row[INSTANCES], list)):
        return request
    return formats.check_row_count(RequestRows(row[INSTANCES], single=False), max_list)


def response_format(header: str | None, kind: str, *, imported: bool) -> str:
    """The format of the answer to a body of `kind`, from the Accept header. Raises ProblemError if it accepts none."""
    default = JSON_LINES if kind == JSON_LINES else CSV if kind == CSV and not imported else JSON
    return formats.negotiate(header, WRITTEN, default=default)


def to_legacy_format(
    calibration: Calibration, results: Sequence[ScoreResult | RuleViolation], documents: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Replace results by the legacy system's format; problems do not change."""
    raw = [result.raw_score for result in results if isinstance(result, ScoreResult) and result.raw_score is not None]
    predictions = iter(legacy_response(raw, calibration)[PREDICTIONS] if raw else ())
    return [
        next(predictions) if isinstance(result, ScoreResult) else document
        for result, document in zip(results, documents, strict=True)
    ]


def serialize(out: str, documents: Sequence[dict[str, Any]]) -> tuple[bytes, str]:
    """Encode the answer in the format `out`; return it with its media type."""
    if out == JSON_LINES:
        return formats.to_json_lines(documents), JSON_LINES
    if out == CSV:
        imported = next(
            (document for document in documents if "raw_score" not in document and PROBLEM not in document), None
        )
        columns = COLUMNS if imported is None else tuple(imported)
        if PROBLEM not in columns and any(PROBLEM in document for document in documents):
            columns = (*columns, PROBLEM)
        return formats.to_csv(documents, columns, _cell), "text/csv; charset=utf-8"
    return orjson.dumps({PREDICTIONS: documents}), JSON


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value['rule']}: {value['detail']}" if isinstance(value, dict) else str(value)
