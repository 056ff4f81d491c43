"""Hand cases on to other programs: as CSV, and one case at a time to a webhook."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from tsa.webhooks import post

TIMEOUT_SECONDS = 5.0
SIGNATURE = "X-TSA-Signature"
COLUMNS = (
    *("id", "time", "scored_at", "expected_loss", "amount", "probability", "raw_score", "percentile", "decision"),
    *("state", "held_by", "changed_by", "changed_at", "version", "arm", "keys", "values"),
)
_MOMENTS = ("time", "scored_at", "changed_at")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_parts(parts: Iterable[Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Cases as CSV with a header, part by part. A text that a spreadsheet would read as a formula gets an apostrophe in
    front."""
    yield _csv([COLUMNS])
    for cases in parts:
        yield _csv([_cell(name, case[name]) for name in COLUMNS] for case in cases)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _cell(name: str, value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return _moment(value) if name in _MOMENTS and value is not None else value
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"'{text}" if text.startswith(_FORMULA) else text


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def send(url: str, secret: str | None, case: Mapping[str, Any], by: str) -> None:
    """POST a case as JSON to a webhook, and wait for its answer.

    Args:
        url: An http or https address.
        secret: Signs the body: `X-TSA-Signature: sha256=` and the HMAC in hex digits; None for no signature.
        case: A case as `CaseDatabase` gives it.
        by: Who hands it on.

    Raises:
        WebhookError: As `post`.
    """
    body = orjson.dumps({"event": "case.handed_on", "by": by, "case": case})
    headers = {}
    if secret is not None:
        headers[SIGNATURE] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    post(url, body, headers, TIMEOUT_SECONDS)
